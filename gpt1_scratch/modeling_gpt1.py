"""GPT-1 (Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training").

Dimensions: B batch, T positions of the input, S positions attended to (the cached ones and the input's), D hidden
size, H heads, W width of a head, V vocabulary, L labels of a task, K choices.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    MultipleChoiceModelOutput,
    SequenceClassifierOutputWithPast,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, slice_logits_to_keep
from transformers.utils import TransformersKwargs, can_return_tuple, logging
from transformers.utils.generic import is_flash_attention_requested
from transformers.utils.output_capturing import capture_outputs

from .configuration_gpt1 import GPT1Config
from .fast_generation import Linear, TokenStep, give_room, packed_weights
from .fast_paths import IGNORE_INDEX, blocked_attention_forward, dropout, gelu, linear_cross_entropy
from .library_version import check_generation
from .lstm_block import LSTMBlock, refuse_padding_before_text

logger = logging.get_logger(__name__)

NO_AUXILIARY_LOSS = "auxiliary_loss_weight would have no effect, unless it is 0"


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out; the only form that returns its weights.

    Args:
        module: the calling layer.
        query: (B, H, T, W).
        key, value: (B, H, S, W).
        attention_mask: (B, 1, T, S), added to the scores.
        scaling: factor on the scores.
        dropout: share of the attention weights set to zero.

    Returns:
        (B, T, H, W) mixed values and (B, H, T, S) attention weights.
    """
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, dropout)
    return (weights @ value).transpose(1, 2), weights


class GPT1Attention(nn.Module):
    """Masked multi-head self-attention."""

    def __init__(self, config: GPT1Config, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_width = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_width**-0.5
        self.is_causal = True
        self.dropout = config.attention_dropout
        self.query_key_value = Linear(config.hidden_size, 3 * config.hidden_size)
        self.output_projection = Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Lets every position read itself and what came before.

        Args:
            hidden_states: (B, T, D).
            attention_mask: whatever the attention implementation expects; `None` for plain causal attention.
            past_key_values: keys and values of earlier positions; this layer's are added.

        Returns:
            (B, T, D), and the attention weights (B, H, T, S) where the implementation has them.
        """
        batch, length, width = hidden_states.shape
        states = self.query_key_value(hidden_states).view(batch, length, 3, -1, self.head_width)
        query, key, value = states.transpose(1, 3).unbind(2)  # (B, H, T, W)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        implementation = self.config._attn_implementation
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        # In training whether or not gradients are on: the two forward passes of activation checkpointing must agree.
        learning = self.training or query.requires_grad
        if implementation == "sdpa" and query.device.type == "cpu" and learning and past_key_values is None:
            if attention_mask is None or attention_mask.dtype == torch.bool:
                attend = blocked_attention_forward
        mixed, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scaling,
            dropout=self.dropout if self.training else 0.0,
            **kwargs,
        )
        return self.output_projection(mixed.reshape(batch, length, width)), weights


class GPT1MLP(nn.Module):
    """The position-wise feed-forward layer."""

    def __init__(self, config: GPT1Config):
        super().__init__()
        self.expand = Linear(config.hidden_size, config.intermediate_size)
        self.contract = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        return self.contract(gelu(self.expand(hidden_states)))


class GPT1Block(GradientCheckpointingLayer):
    """Attention and feed-forward layer, each followed by `norm(x + a)`.

    The original Transformer's order: normalisation comes after the sum, so every block normalises the residual stream
    itself.
    """

    def __init__(self, config: GPT1Config, layer_idx: int):
        super().__init__()
        self.attention = GPT1Attention(config, layer_idx)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = GPT1MLP(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.residual_dropout = config.residual_dropout

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(B, T, D) to (B, T, D); the other arguments are those of `GPT1Attention`."""
        attended, _ = self.attention(
            hidden_states, attention_mask=attention_mask, past_key_values=past_key_values, **kwargs
        )
        attended = dropout(attended, self.residual_dropout, self.training)
        hidden_states = self.attention_norm(hidden_states + attended)
        transformed = dropout(self.mlp(hidden_states), self.residual_dropout, self.training)
        return self.mlp_norm(hidden_states + transformed)


class GPT1PreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation; N(0, 0.02) and zero biases are the library's own rule for most layers."""

    config: GPT1Config
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GPT1Block", "LSTMBlock"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # Either kind of block is such a layer, and nothing else is.
    _can_record_outputs = {"hidden_states": GradientCheckpointingLayer, "attentions": GPT1Attention}
    # A fine-tuned checkpoint loads into every class without a word about the head of its task.
    _keys_to_ignore_on_load_unexpected = [r"^(choice_)?score\.", r"^lm_head\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PositionEmbedding) and self.config.sinusoidal_positions:
            table = sinusoids(*module.weight.shape)
            init.copy_(module.weight, table * math.sqrt(2) * self.config.initializer_range)
        else:
            super()._init_weights(module)


class PositionEmbedding(nn.Embedding):
    """A learned vector for every position."""


def sinusoids(positions: int, width: int) -> torch.Tensor:
    """(positions, width) sines, then cosines, with wavelengths from 2 pi to 20,000 pi (Vaswani et al. 2017)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angles = torch.arange(positions)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


def only_one(input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
    """The one that is given."""
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("Give exactly one of input_ids and inputs_embeds.")
    return inputs_embeds if input_ids is None else input_ids


class GPT1Model(GPT1PreTrainedModel):
    """Token and position embeddings and the blocks over them (equation 2 of the paper, without the softmax)."""

    def __init__(self, config: GPT1Config):
        super().__init__(config)
        self.tokens_embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions_embed = PositionEmbedding(config.max_position_embeddings, config.hidden_size)
        block = GPT1Block if config.lstm_size is None else LSTMBlock  # the latter for an ablation alone
        self.blocks = nn.ModuleList(block(config, index) for index in range(config.num_hidden_layers))
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.tokens_embed

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.tokens_embed = value

    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """Reads a batch of sequences.

        Args:
            input_ids: (B, T) tokens.
            attention_mask: (B, cached + T) with 0 for padding, on either side; `None` if there is no padding. With
                padding on the left `position_ids` must be given, as `generate()` does. A (B, 1, T, S) mask is taken
                as it is.
            position_ids: (B, T), by default counted on from the cache. Where they restart within a row and neither
                padding nor a filled cache is given, a new document begins, and nothing attends to the one before.
            past_key_values: a cache to read and extend.
            inputs_embeds: (B, T, D) in place of `input_ids`, without positions.
            use_cache: whether to return a cache; by default the config's `use_cache`, and not in training.

        Returns:
            The last block's states (B, T, D), and the cache.

        Raises:
            ValueError: both or neither of `input_ids` and `inputs_embeds`, a sequence beyond the last position, or
                padding on the left of an LSTM.
        """
        if only_one(input_ids, inputs_embeds) is input_ids:
            inputs_embeds = self.tokens_embed(input_ids)
        if self.config.lstm_size is not None:
            refuse_padding_before_text(attention_mask)
        # Before a cache is made: the library looks for packed documents only where there is none.
        causal_mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        if (
            is_flash_attention_requested(self.config)
            and position_ids is not None
            and attention_mask is None
            and past_key_values is None
        ):
            # FlashAttention finds the documents in a single row by itself, in several rows it has to be told.
            lengths, longest = prepare_fa_kwargs_from_position_ids(position_ids)
            kwargs.update(zip(("cu_seq_lens_q", "cu_seq_lens_k"), lengths, strict=True))
            kwargs.update(zip(("max_length_q", "max_length_k"), longest, strict=True))
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            position_ids = self._count_positions(inputs_embeds, past_key_values)

        hidden_states = inputs_embeds + self.positions_embed(position_ids)
        device_type = hidden_states.device.type
        if device_type == "cpu" and torch.is_autocast_enabled("cpu"):
            # On CPU autocast leaves normalisation in the type it is given: this keeps the residual stream, which every
            # block normalises afresh, in the type of the matrix products and saves four conversions a block.
            hidden_states = hidden_states.to(torch.get_autocast_dtype("cpu"))
        hidden_states = dropout(hidden_states, self.config.embedding_dropout, self.training)
        for block in self.blocks:
            hidden_states = block(hidden_states, attention_mask=causal_mask, past_key_values=past_key_values, **kwargs)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden_states, past_key_values=past_key_values if use_cache else None
        )

    def _count_positions(self, inputs_embeds: torch.Tensor, past_key_values: Cache | None) -> torch.Tensor:
        seen = past_key_values.get_seq_length() if past_key_values is not None else 0
        length = inputs_embeds.shape[1]
        if isinstance(seen, int) and seen + length > self.config.max_position_embeddings:
            raise ValueError(
                f"The sequence has {seen + length} tokens, but the model's max_position_embeddings is "
                f"{self.config.max_position_embeddings}: shorten it, or cut it into windows."
            )
        return (torch.arange(length, device=inputs_embeds.device) + seen).unsqueeze(0)


def next_tokens(labels: torch.LongTensor) -> torch.LongTensor:
    """(B, T) labels to what each position predicts: the label after it, and `-100` at the end."""
    return nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)


def divide_by_items(
    loss: torch.Tensor, counted: torch.BoolTensor, num_items_in_batch: torch.Tensor | int | None
) -> torch.Tensor:
    """A summed loss divided by the number of items in the whole update; left out, by that of the items counted."""
    if num_items_in_batch is None:
        num_items_in_batch = counted.sum().clamp(min=1)
    elif isinstance(num_items_in_batch, torch.Tensor):
        num_items_in_batch = num_items_in_batch.to(loss.device)
    return loss / num_items_in_batch


def refuse_loss_from_elsewhere(num_items_in_batch: torch.Tensor | int | None, harm: str) -> None:
    """Raises ValueError where the library's `Trainer` keeps the labels back to compute another loss from the logits.

    Args:
        num_items_in_batch: what the Trainer gives with or without labels; nobody else gives it without.
        harm: what would be wrong with that loss.
    """
    if num_items_in_batch is not None:
        raise ValueError(
            f"num_items_in_batch is {num_items_in_batch}, but there are no labels. With the Trainer's "
            f"label_smoothing_factor {harm}: set it to 0. For a compute_loss_func of your own set "
            "model.accepts_loss_kwargs to False."
        )


def next_token_loss(
    hidden_states: torch.Tensor,
    lm_head: nn.Module,
    labels: torch.Tensor | None,
    num_items_in_batch: torch.Tensor | int | None = None,
    shift_labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of every next token (equation 1 of the paper), without ever holding all logits.

    Args:
        hidden_states: (B, T, D) the last block's states.
        lm_head: from D to V. If it is an adapter's layer, a quantised one, or one whose weight is loaded as it is
            called, its logits are held after all.
        labels: (B, T) the tokens themselves, which are shifted here: the state at position t predicts the label at
            t + 1. Labels of `-100` do not count and cost nothing.
        num_items_in_batch: the number of labels that count in the whole update. The sum is divided by it, so that
            gradients over several accumulated batches and several processes add up to one large batch's. Left out,
            the loss is the mean over the labels that count.
        shift_labels: (B, T) what each position is to predict, in place of `labels`: shifted already by one who splits
            sequences between devices, none of which sees the token that follows its last one.

    Returns:
        The loss, a scalar in fp32.
    """
    targets = next_tokens(labels) if shift_labels is None else shift_labels
    if type(lm_head) is Linear and not lm_head.weight.is_meta:
        loss = linear_cross_entropy(hidden_states.flatten(0, 1), lm_head.weight, targets.flatten())
    else:
        counted = targets != IGNORE_INDEX
        logits = lm_head(hidden_states[counted]).float()
        loss = nn.functional.cross_entropy(logits, targets[counted], reduction="sum")
    return divide_by_items(loss, targets != IGNORE_INDEX, num_items_in_batch)


class GPT1ForCausalLM(GPT1PreTrainedModel, GenerationMixin):
    """GPT-1 with its softmax, which shares the token embeddings' table."""

    _tied_weights_keys = {"lm_head.weight": "model.tokens_embed.weight"}
    _token_step: TokenStep | None = None

    def __init__(self, config: GPT1Config):
        super().__init__(config)
        self.model = GPT1Model(config)
        # Assisted generation takes tokens back, which an LSTM's state cannot.
        self._is_stateful = config.lstm_size is not None
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """Predicts every next token.

        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache: as in
                `GPT1Model.forward`.
            labels: (B, T), usually `input_ids` with `-100` where nothing is to be learnt; see `next_token_loss`.
            logits_to_keep: how many of the last positions get logits, 0 for all; or the indices of those that do. The
                loss always covers every label: to evaluate without holding all logits, pass labels and 1.
            num_items_in_batch, shift_labels: see `next_token_loss`.

        Returns:
            The loss if there are labels; the logits (B, T, V), but `None` in training mode with labels, where the
            loss never holds them; the cache; hidden states and attention weights if asked for.
        """
        # Not by name: the library's Trainer takes an argument with "label" in its name for a column of its data.
        shift_labels = kwargs.pop("shift_labels", None)
        to_learn = labels is not None or shift_labels is not None
        if not to_learn:
            refuse_loss_from_elsewhere(num_items_in_batch, "labels would not be shifted")
            inputs = (input_ids, attention_mask, position_ids, past_key_values)
            step = self._token_step  # looked at once: another thread's generate() may end meanwhile
            if step is not None and step.takes_input(*inputs, inputs_embeds=inputs_embeds, **kwargs):
                return CausalLMOutputWithPast(logits=step(*inputs), past_key_values=past_key_values)
        elif use_cache is None:
            use_cache = False
        outputs: BaseModelOutputWithPast = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        loss = logits = None
        if to_learn:
            loss = next_token_loss(hidden_states, self.lm_head, labels, num_items_in_batch, shift_labels)
        if not (to_learn and self.training):
            logits = self.lm_head(slice_logits_to_keep(hidden_states, logits_to_keep))
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @functools.wraps(GenerationMixin.generate)
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        check_generation(self, args, kwargs)
        with packed_weights(self):
            modules = (GPT1ForCausalLM, GPT1Model, PositionEmbedding, GPT1Block, GPT1Attention, GPT1MLP, Linear)
            if TokenStep.takes_model(self, modules):
                self._token_step = TokenStep(self)
            try:
                return super().generate(*args, **kwargs)
            finally:
                self._token_step = None

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        given = model_kwargs.get("past_key_values")
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        cache = model_kwargs.get("past_key_values")
        if cache is not given:
            give_room(cache)

    def _prepare_generated_length(self, generation_config: GenerationConfig, *args: Any, **kwargs: Any):
        # Positions are learned, so `generate()` would end in an IndexError beyond the last one.
        generation_config = super()._prepare_generated_length(generation_config, *args, **kwargs)
        limit = self.config.max_position_embeddings
        if generation_config.max_length > limit:
            logger.warning(
                f"Generation up to {generation_config.max_length} tokens was asked for; it will stop at the model's "
                f"max_position_embeddings, {limit}, prompt included."
            )
            generation_config.max_length = limit
        return generation_config


def reading_order(attended: torch.BoolTensor, delimiters: torch.BoolTensor | None = None) -> torch.LongTensor:
    """In what order a row's tokens are read, as indices to gather them with; padding comes last.

    Args:
        attended: (B, T), false for padding, on either side.
        delimiters: (B, T), true for delimiters, to read pairs in both orders.

    Returns:
        (B, 1, T), the row's own order; or (B, 2, T) with a second one, which makes
        `[start] b [delimiter] a [extract]` of `[start] a [delimiter] b [extract]`. The first delimiter counts; a row
        that has none is read twice as it is.
    """
    own_order = (~attended).int().argsort(dim=1, stable=True)
    if delimiters is None:
        return own_order[:, None]
    place = attended.cumsum(dim=1)  # 1 at the first token
    delimiters = delimiters & attended
    delimiters_so_far = delimiters.cumsum(dim=1)
    rank = torch.where(delimiters_so_far == 0, 3, 1)  # text a, and text b before it
    rank[delimiters & (delimiters_so_far == 1)] = 2
    rank[place == 1] = 0
    rank[place == place[:, -1:]] = 4
    rank[~attended] = 5
    return torch.stack((own_order, rank.argsort(dim=1, stable=True)), dim=1)


class Reading(NamedTuple):
    """What a head has to work with: N sequences, padded at the end."""

    outputs: BaseModelOutputWithPast  # the backbone's, (N, T, D)
    extracted: torch.Tensor  # (N, D), the state at each sequence's last token
    tokens: torch.LongTensor | None  # (N, T), -100 for padding; None where embeddings were given in their place


class GPT1TaskModel(GPT1PreTrainedModel):
    """What the heads for tasks share: reading whole sequences, a linear layer, and the joint loss.

    The state is read at a sequence's last token, wherever padding stands: `<extract>`, which the template of
    `add_task_template` in `tokenization.py` puts there. The linear layer has a bias, as in the published code;
    equation 3 of the paper has none. It has a name of its own in each head, so that no checkpoint's scores of choices
    are taken for scores of classes.
    """

    def __init__(self, config: GPT1Config):
        super().__init__(config)
        # What is given to `from_pretrained` reaches the config after it has checked itself.
        config.validate_both_orders()
        self.model = GPT1Model(config)

    def _read(
        self,
        input_ids: torch.LongTensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.LongTensor | None,
        inputs_embeds: torch.Tensor | None,
        both_orders: bool = False,
        **kwargs: Any,
    ) -> Reading:
        """Runs the backbone over B sequences, or over 2 B if `both_orders`, a sequence's two orders side by side."""
        given = only_one(input_ids, inputs_embeds)
        if attention_mask is not None:
            attended = attention_mask.bool()
        elif input_ids is None or self.config.pad_token_id is None:
            attended = torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)
        else:
            attended = input_ids != self.config.pad_token_id
        delimiters = None
        if both_orders:
            if input_ids is None:
                raise ValueError("both_orders looks for the delimiter among the tokens: give input_ids.")
            delimiters = input_ids == self.config.delimiter_token_id
        order = reading_order(attended, delimiters)  # (B, 1 or 2, T)
        batch, orders, length = order.shape
        row = torch.arange(batch, device=order.device)[:, None, None]
        sequences = given[row, order].flatten(0, 1)
        if position_ids is not None:  # belong to places, so they are the same in both orders
            position_ids = position_ids.expand(batch, -1)[row, order[:, :1]].expand(-1, orders, -1).flatten(0, 1)
        # With padding behind the tokens the causal mask alone keeps it out of sight.
        outputs = self.model(
            **{"inputs_embeds" if input_ids is None else "input_ids": sequences},
            position_ids=position_ids,
            use_cache=False,
            **kwargs,
        )
        lengths = attended.sum(dim=1).clamp(min=1).repeat_interleave(orders)
        # Not len(), which torch.export would take for a constant.
        extracted = outputs.last_hidden_state[torch.arange(lengths.shape[0], device=lengths.device), lengths - 1]
        extracted = extracted.to(self.dtype)
        padding = torch.arange(length, device=lengths.device) >= lengths[:, None]
        return Reading(outputs, extracted, None if input_ids is None else sequences.masked_fill(padding, IGNORE_INDEX))

    def _apply_linear(self, layer: nn.Linear, states: torch.Tensor) -> torch.Tensor:
        # Not under autocast: scores with the three digits of bfloat16 would tie.
        with torch.autocast(states.device.type, enabled=False):
            return layer(states)

    def _joint_loss(
        self,
        task_losses: torch.Tensor,
        counted: torch.BoolTensor,
        reading: Reading,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """Task loss and, in training, `auxiliary_loss_weight` times the language model's (equation 5 of the paper).

        The language model's loss of an example is the mean over the tokens of a sequence, special ones included, and
        then over the example's sequences, as in the published code.

        Args:
            task_losses: (B,), 0 for examples that do not count.
            counted: (B,) which examples count.
            reading: of the examples' sequences, the same number for each.
            num_items_in_batch: the number of examples that count in the whole update; left out, in this batch.
        """
        loss = task_losses.sum()
        weight = self.config.auxiliary_loss_weight
        if self.training and weight:
            if reading.tokens is None or not self.config.tie_word_embeddings:
                raise ValueError(
                    f"auxiliary_loss_weight is {weight}: the language model's loss predicts the tokens of input_ids "
                    "with a softmax that is tied to their table. Give input_ids, and to a model with "
                    "tie_word_embeddings; or set auxiliary_loss_weight to 0."
                )
            targets = next_tokens(reading.tokens)  # (N, T)
            sequences_per_example = len(targets) // len(counted)
            tokens_per_sequence = (targets != IGNORE_INDEX).sum(dim=1).clamp(min=1)
            weights = counted.repeat_interleave(sequences_per_example) * weight / sequences_per_example
            loss = loss + linear_cross_entropy(
                reading.outputs.last_hidden_state.flatten(0, 1),
                self.model.tokens_embed.weight,
                targets.flatten(),
                (weights / tokens_per_sequence)[:, None].expand_as(targets).flatten(),
            )
        return divide_by_items(loss, counted, num_items_in_batch)


class GPT1ForSequenceClassification(GPT1TaskModel):
    """GPT-1 with a linear layer over a text or a pair of texts: classes, several labels at once, or numbers.

    With the config's `both_orders`, for pairs without an order of their own, it reads a pair in both and adds the two
    states before the linear layer (section 3.3 of the paper).
    """

    def __init__(self, config: GPT1Config):
        super().__init__(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutputWithPast:
        """Scores a batch of sequences.

        Args:
            input_ids: (B, T) tokens, the last of each `<extract>`.
            attention_mask: (B, T) with 0 for padding, on either side; by default the tokens that are not
                `pad_token_id`.
            position_ids: (B, T), by default counted from the first token, whichever side the padding is on.
            inputs_embeds: (B, T, D) in place of `input_ids`; not with both orders or the auxiliary loss.
            labels: (B,) classes, `-100` for examples that do not count; (B, L) floats of 0 and 1 where several labels
                may hold; (B,) or (B, L) numbers for regression. Which of them, `config.problem_type` says; `None` is
                replaced by what the first labels show.
            num_items_in_batch: the number of examples in the whole update. The summed loss is divided by it, so that
                gradients over accumulated batches and several processes add up to one large batch's. Left out, the
                loss is the mean over the batch's examples that count.

        Returns:
            The loss if there are labels: cross-entropy, the labels' mean binary cross-entropy, or the mean squared
            error; in training mode with the auxiliary loss. The scores (B, L) as logits. Hidden states and attention
            weights, if asked for, are of the sequences as they are read: padding last, both orders side by side.
        """
        both_orders = self.config.both_orders
        reading = self._read(input_ids, attention_mask, position_ids, inputs_embeds, both_orders, **kwargs)
        states = reading.extracted.unflatten(0, (-1, 2 if both_orders else 1)).sum(dim=1)  # (B, D)
        logits = self._apply_linear(
            self.score, dropout(states, self.config.classifier_dropout, self.training)
        )  # (B, L)
        loss = None
        if labels is not None:
            task_losses, counted = self._task_losses(logits.float(), labels)
            loss = self._joint_loss(task_losses, counted, reading, num_items_in_batch)
        elif self.training and self.config.auxiliary_loss_weight:
            refuse_loss_from_elsewhere(num_items_in_batch, NO_AUXILIARY_LOSS)
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=reading.outputs.hidden_states,
            attentions=reading.outputs.attentions,
        )

    def _task_losses(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.BoolTensor]:
        """(B,) losses, and which of them count."""
        config = self.config
        if config.problem_type is None:
            # Kept, as the library's models do, for a pipeline to know what the scores are.
            if config.num_labels == 1:
                config.problem_type = "regression"
            elif labels.is_floating_point():
                config.problem_type = "multi_label_classification"
            else:
                config.problem_type = "single_label_classification"
        if config.problem_type == "single_label_classification":
            labels = labels.view(-1).long()
            losses = nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="none")
            return losses, labels != IGNORE_INDEX
        labels = labels.view(logits.shape).float()
        if config.problem_type == "regression":
            losses = nn.functional.mse_loss(logits, labels, reduction="none")
        else:
            losses = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return losses.mean(dim=1), torch.ones(len(labels), dtype=torch.bool, device=labels.device)


class GPT1ForMultipleChoice(GPT1TaskModel):
    """GPT-1 that scores each of K sequences with one linear layer; the softmax runs over them."""

    def __init__(self, config: GPT1Config):
        super().__init__(config)
        self.choice_score = nn.Linear(config.hidden_size, 1)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MultipleChoiceModelOutput:
        """Scores a batch of questions, each with K answers.

        Args:
            input_ids: (B, K, T) tokens, the last of each sequence `<extract>`.
            attention_mask, position_ids: (B, K, T), as in `GPT1ForSequenceClassification.forward`.
            inputs_embeds: (B, K, T, D) in place of `input_ids`; not with the auxiliary loss.
            labels: (B,) the right answer's number, `-100` for examples that do not count.
            num_items_in_batch: as in `GPT1ForSequenceClassification.forward`.

        Returns:
            The loss if there are labels, in training mode with the auxiliary loss; the scores (B, K) as logits; hidden
            states and attention weights if asked for, of B x K sequences with padding last.
        """
        choices = only_one(input_ids, inputs_embeds).shape[1]
        given = (input_ids, attention_mask, position_ids, inputs_embeds)
        reading = self._read(*(None if tensor is None else tensor.flatten(0, 1) for tensor in given), **kwargs)
        states = reading.extracted.unflatten(0, (-1, choices))  # (B, K, D)
        # One mask for all choices, as in the published code: they are compared by the same features.
        kept = dropout(torch.ones_like(states[:, :1]), self.config.classifier_dropout, self.training)
        logits = self._apply_linear(self.choice_score, states * kept).squeeze(-1)  # (B, K)
        loss = None
        if labels is not None:
            task_losses = nn.functional.cross_entropy(
                logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="none"
            )
            loss = self._joint_loss(task_losses, labels != IGNORE_INDEX, reading, num_items_in_batch)
        elif self.training and self.config.auxiliary_loss_weight:
            refuse_loss_from_elsewhere(num_items_in_batch, NO_AUXILIARY_LOSS)
        return MultipleChoiceModelOutput(
            loss=loss,
            logits=logits,
            hidden_states=reading.outputs.hidden_states,
            attentions=reading.outputs.attentions,
        )


__all__ = [
    "GPT1ForCausalLM",
    "GPT1ForMultipleChoice",
    "GPT1ForSequenceClassification",
    "GPT1Model",
    "GPT1PreTrainedModel",
]

"""GPT-1 (Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training").

Dimensions: B batch, T positions of the input, S positions attended to (the cached ones and the input's), D hidden
size, H heads, W width of a head, V vocabulary, L labels of a task, K choices.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, slice_logits_to_keep
from transformers.utils import TransformersKwargs, can_return_tuple, logging
from transformers.utils.generic import is_flash_attention_requested
from transformers.utils.output_capturing import capture_outputs

from .configuration_gpt1 import GPT1Config
from .cpu_generation import TokenStep, give_room
from .cpu_kernels import blocked_attention_forward, dropout, gelu
from .file_modes import SavedWithUmask
from .library_arguments import CACHE_NAME, name_cache_for_library, name_cache_for_peft, understand_arguments
from .library_version import check_generation
from .lstm_block import LSTMBlock, refuse_padding_before_text
from .packed_linear import packed_weights
from .token_loss import next_token_loss, refuse_loss_from_elsewhere

logger = logging.get_logger(__name__)


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
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output_projection = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Lets every position read itself and what came before.

        Args:
            hidden_states: (B, T, D).
            attention_mask: whatever the attention implementation expects; `None` for plain causal attention.
            cache: keys and values of earlier positions; this layer's are added.

        Returns:
            (B, T, D), and the attention weights (B, H, T, S) where the implementation has them.
        """
        batch, length, width = hidden_states.shape
        states = self.query_key_value(hidden_states).view(batch, length, 3, -1, self.head_width)
        query, key, value = states.transpose(1, 3).unbind(2)  # (B, H, T, W)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx, kwargs=kwargs)
        implementation = self.config._attn_implementation
        attend: Callable = eager_attention_forward
        if implementation != "paged|eager":  # that one would update the cache itself in versions before 5.24
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        # In training whether or not gradients are on: the two forward passes of activation checkpointing must agree.
        learning = self.training or query.requires_grad
        if implementation == "sdpa" and query.device.type == "cpu" and learning and cache is None:
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
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)

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
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(B, T, D) to (B, T, D); the other arguments are those of `GPT1Attention`."""
        attended, _ = self.attention(hidden_states, attention_mask=attention_mask, cache=cache, **kwargs)
        attended = dropout(attended, self.residual_dropout, self.training)
        hidden_states = self.attention_norm(hidden_states + attended)
        transformed = dropout(self.mlp(hidden_states), self.residual_dropout, self.training)
        return self.mlp_norm(hidden_states + transformed)


class GPT1PreTrainedModel(SavedWithUmask, PreTrainedModel):
    """Loading, saving and initialisation; N(0, 0.02) and zero biases are the library's own rule for most layers."""

    config: GPT1Config
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GPT1Block", "LSTMBlock"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
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

    @understand_arguments(Cache, PagedAttentionCache)
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
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
            cache: a cache to read and extend.
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
        # By position: the name of the cache differs between versions of the library. A paged cache brings its mask.
        causal_mask = create_causal_mask(
            self.config, inputs_embeds, attention_mask, cache if isinstance(cache, Cache) else None, position_ids
        )
        if (
            is_flash_attention_requested(self.config)
            and position_ids is not None
            and attention_mask is None
            and cache is None
        ):
            # FlashAttention finds the documents in a single row by itself, in several rows it has to be told.
            lengths, longest = prepare_fa_kwargs_from_position_ids(position_ids)
            kwargs.update(zip(("cu_seq_lens_q", "cu_seq_lens_k"), lengths, strict=True))
            kwargs.update(zip(("max_length_q", "max_length_k"), longest, strict=True))
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            cache, use_cache = None, False  # a block that is run a second time must not extend it again
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            position_ids = self._count_positions(inputs_embeds, cache)

        hidden_states = inputs_embeds + self.positions_embed(position_ids)
        device_type = hidden_states.device.type
        if device_type == "cpu" and torch.is_autocast_enabled("cpu"):
            # On CPU autocast leaves normalisation in the type it is given: this keeps the residual stream, which every
            # block normalises afresh, in the type of the matrix products and saves four conversions a block.
            hidden_states = hidden_states.to(torch.get_autocast_dtype("cpu"))
        hidden_states = dropout(hidden_states, self.config.embedding_dropout, self.training)
        # As many as the config says: early exit (`assistant_early_exit`) asks for fewer for a while.
        for index in range(self.config.num_hidden_layers):
            hidden_states = self.blocks[index](hidden_states, attention_mask=causal_mask, cache=cache, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=hidden_states, **{CACHE_NAME: cache if use_cache else None})

    def _count_positions(self, inputs_embeds: torch.Tensor, cache: Cache | None) -> torch.Tensor:
        seen = cache.get_seq_length() if cache is not None else 0
        length = inputs_embeds.shape[1]
        if isinstance(seen, int) and seen + length > self.config.max_position_embeddings:
            raise ValueError(
                f"The sequence has {seen + length} tokens, but the model's max_position_embeddings is "
                f"{self.config.max_position_embeddings}: shorten it, or cut it into windows."
            )
        return (torch.arange(length, device=inputs_embeds.device) + seen).unsqueeze(0)


class GPT1ForCausalLM(GPT1PreTrainedModel, GenerationMixin):
    """GPT-1 with its softmax, which shares the token embeddings' table."""

    _tied_weights_keys = {"lm_head.weight": "model.tokens_embed.weight"}
    _token_step: TokenStep | None = None

    def __init__(self, config: GPT1Config):
        super().__init__(config)
        self.model = GPT1Model(config)
        # Assisted generation takes tokens back, which an LSTM's state cannot.
        self._is_stateful = config.lstm_size is not None
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @understand_arguments(Cache, PagedAttentionCache, also=("shift_labels",))
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """Predicts every next token.

        Args:
            input_ids, attention_mask, position_ids, cache, inputs_embeds, use_cache: as in
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
            inputs = (input_ids, attention_mask, position_ids, cache)
            step = self._token_step  # looked at once: another thread's generate() may end meanwhile
            if step is not None and step.takes_input(*inputs, inputs_embeds=inputs_embeds, **kwargs):
                return CausalLMOutputWithPast(logits=step(*inputs), **{CACHE_NAME: cache})
        elif use_cache is None:
            use_cache = False
        outputs: BaseModelOutputWithPast = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        loss = logits = None
        if to_learn:
            loss = next_token_loss(hidden_states, self.lm_head, labels, num_items_in_batch, shift_labels)
        if not (to_learn and self.training):
            # For rows that are not contiguous PyTorch may copy frozen weights for each sample, for a batched product.
            logits = self.lm_head(slice_logits_to_keep(hidden_states, logits_to_keep).contiguous())
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @functools.wraps(GenerationMixin.generate)
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        kwargs = name_cache_for_library(kwargs)
        check_generation(self, args, kwargs)
        layers, outer_step = self.config.num_hidden_layers, self._token_step
        exit_layer = kwargs.get("assistant_early_exit")
        if exit_layer is not None and not 1 <= exit_layer <= layers:
            raise ValueError(f"assistant_early_exit is {exit_layer}; the model has {layers} layers.")
        with packed_weights(self):
            modules = (GPT1ForCausalLM, GPT1Model, PositionEmbedding, GPT1Block, GPT1Attention, GPT1MLP)
            if TokenStep.takes_model(self, modules):
                self._token_step = TokenStep(self)
            try:
                return super().generate(*args, **kwargs)
            finally:
                # Early exit runs this again within itself, on the first layers alone, and an error would leave it so.
                self.config.num_hidden_layers, self._token_step = layers, outer_step

    @functools.wraps(GenerationMixin.prepare_inputs_for_generation)
    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return name_cache_for_peft(self, super().prepare_inputs_for_generation(*args, **kwargs))

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        given = model_kwargs.get(CACHE_NAME)
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        cache = model_kwargs.get(CACHE_NAME)
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


def order_by_rank(rank: torch.LongTensor, ranks: int) -> torch.LongTensor:
    """The stable `argsort` of a (B, T) tensor of integers below `ranks`, by counting: ONNX has no stable sort."""
    members = rank[:, None] == torch.arange(ranks, device=rank.device)[:, None]  # (B, ranks, T)
    # How many tokens have a lower rank, or the same one further left.
    places = members.flatten(1).cumsum(dim=1).view_as(members).gather(1, rank[:, None])[:, 0] - 1
    positions = torch.arange(rank.shape[1], device=rank.device).expand_as(rank)
    return torch.zeros_like(rank).scatter(1, places, positions)


__all__ = [
    "GPT1ForCausalLM",
    "GPT1Model",
    "GPT1PreTrainedModel",
]

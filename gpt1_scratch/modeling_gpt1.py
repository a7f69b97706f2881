"""GPT-1 (Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training").

A language model is trained on unlabelled tokens u_1 ... u_n to maximise (equation 1)

    L1(U) = sum_i log P(u_i | u_{i-k}, ..., u_{i-1})

which `next_token_loss` in `token_loss.py` computes. The model is a stack of Transformer decoder blocks (equation 2)

    h_0  = U W_e + W_p                      GPT1Model: token and position embeddings
    h_l  = transformer_block(h_{l-1})       GPT1Block, for l = 1 ... n
    P(u) = softmax(h_n W_e^T)               GPT1ForCausalLM

Equations 3 to 5 add a head for a task: see `modeling_gpt1_heads.py`. What BERT did differently, bidirectional
attention and masked tokens, is a setting of the config: see `modeling_gpt1_masked.py`.

The file has a few more than 500 lines, because the language model is read as a whole.

The code here is in plain form. Files beside it hold faster forms: `cpu_kernels.py` for training, `cpu_generation.py`
and `packed_linear.py` for `generate()`. Run a model inside `plain_forms()` to step through the plain forms in a
debugger.

Dimensions: B batch, T positions of the input, S positions attended to (the cached ones and the input's), H heads,
W width of a head, D model width, F inner width of the feed-forward layer, V vocabulary.
"""

import math
from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, slice_logits_to_keep
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import is_flash_attention_requested
from transformers.utils.output_capturing import capture_outputs

from .bidirectional_attention import create_document_mask, refuse_bidirectional, refuse_cache
from .configuration_gpt1 import GPT1Config
from .cpu_generation import TokenStep
from .cpu_kernels import blocked_attention_forward, fast_gelu
from .dropout import dropout
from .file_modes import SavedWithUmask
from .generation_gpt1 import GPT1GenerationMixin
from .library_arguments import CACHE_NAME, understand_arguments
from .lstm_block import LSTMBlock, refuse_padding_before_tokens
from .old_keys import LoadsOldKeys
from .plain_forms import has_fast_form, plain_forms_are_on
from .token_loss import next_token_loss, refuse_external_loss


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
    """Computes softmax(Q K^T / sqrt(W)) V in plain form; the only form that returns the attention weights.

    This is equation 1 of Vaswani et al. 2017, to which GPT-1's paper refers for the block.

    Args:
        module: the calling layer, whose `is_causal` says whether attention is causal; by default it is.
        query: (B, H, T, W).
        key, value: (B, H, S, W).
        attention_mask: (B, 1, T, S), Boolean with true where a position may be attended to, or floats that are added
            to the scores. `None` means the causal mask, or no mask if attention is bidirectional.
        scaling: factor on the scores, 1 / sqrt(W). The dot product of two vectors of W independent elements with mean
            0 and variance 1 has variance W; the factor brings it back to 1. Without it, a wide head would start with
            a softmax close to 0 or 1, where gradients vanish.
        dropout: share of the attention weights that are set to zero.

    Returns:
        The mixed values, (B, T, H, W), and the attention weights, (B, H, T, S).
    """
    scores = query @ key.transpose(2, 3) * scaling  # B H T W, B H W S -> B H T S
    if attention_mask is None and getattr(module, "is_causal", True):
        attention_mask = causal_mask(query.shape[2], key.shape[2]).to(scores.device)  # T S
    if attention_mask is None:
        pass  # bidirectional, without padding: nothing is hidden
    elif attention_mask.dtype == torch.bool:
        # The lowest number, not -inf: the softmax of a row of -inf, which padding on the left makes, is NaN.
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, dropout)
    return (weights @ value).transpose(1, 2), weights  # B H T S, B H S W -> B H T W -> B T H W


def causal_mask(length: int, attended: int) -> torch.BoolTensor:
    """Returns the (T, S) mask that lets a position attend to itself and to those before it: a triangle.

    The input's T positions are the last of the S positions attended to.

        >>> causal_mask(4, 4).int()
        tensor([[1, 0, 0, 0],
                [1, 1, 0, 0],
                [1, 1, 1, 0],
                [1, 1, 1, 1]], dtype=torch.int32)
    """
    return torch.ones(length, attended, dtype=torch.bool).tril(attended - length)


@has_fast_form(fast_gelu)
def gelu(x: torch.Tensor) -> torch.Tensor:
    """Computes the Gaussian error linear unit x P(X <= x), X ~ N(0, 1), in the tanh form of OpenAI's code; any shape.

    It passes large values, blocks very negative ones, and is smooth in between (Hendrycks and Gimpel 2016).
    """
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class GPT1Attention(nn.Module):
    """Masked multi-head self-attention (section 4.1; Vaswani et al. 2017, sections 3.2.2 and 3.2.3).

    A position attends to itself and to those before it. H heads do so side by side, each over W = D / H elements:

        head_j = softmax(Q_j K_j^T / sqrt(W) + mask) V_j,   Q_j = h W^Q_j,   K_j = h W^K_j,   V_j = h W^V_j
        output = Concat(head_1, ..., head_H) W^O

    All projections have biases. The matrices of all Q_j, K_j and V_j are one. With bidirectional attention, which is
    BERT's and not the paper's, a position attends to those after it too.
    """

    def __init__(self, config: GPT1Config, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_width = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_width**-0.5
        self.is_causal = config.attention == "causal"
        self.dropout = config.attention_dropout
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)  # one product for all three
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mixes the values of the positions that each position attends to.

        Args:
            hidden_states: (B, T, D).
            attention_mask: (B, 1, T, S) or the attention implementation's own kind; `None` for the causal mask, or for
                no mask if attention is bidirectional.
            cache: keys and values of earlier positions, (B, H, S - T, W) each; this layer's are appended.
            kwargs: passed on to the attention implementation.

        Returns:
            The output, (B, T, D), and the attention weights, (B, H, T, S), or `None` if the implementation does not
            return them.
        """
        batch, length, width = hidden_states.shape
        states = self.query_key_value(hidden_states)  # B T D -> B T 3D
        states = states.view(batch, length, 3, -1, self.head_width)  # B T 3 H W
        query, key, value = states.transpose(1, 3).unbind(2)  # B H T W each
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx, kwargs=kwargs)  # B H S W each
        attend = self._attention_function(query, attention_mask, cache)
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
        return self.out_proj(mixed.reshape(batch, length, width)), weights  # B T H W -> B T D

    def _attention_function(
        self, query: torch.Tensor, attention_mask: torch.Tensor | None, cache: Cache | None
    ) -> Callable:
        implementation = self.config._attn_implementation
        if implementation == "sdpa":
            if plain_forms_are_on():
                return eager_attention_forward
            # The two forward passes of activation checkpointing must agree, and the first one has no gradients: so
            # the training mode counts as well.
            trains = (self.training or query.requires_grad) and cache is None
            mask_is_supported = attention_mask is None or attention_mask.dtype == torch.bool
            # Compiled code would hold every block, and be made again for every length.
            compiling = torch.compiler.is_compiling()
            if query.device.type == "cpu" and trains and mask_is_supported and not compiling:
                return blocked_attention_forward
        elif implementation == "paged|eager":  # before 5.24, the library's function updates the cache a second time
            return eager_attention_forward
        return ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)


class GPT1MLP(nn.Module):
    """The position-wise feed-forward layer of section 4.1: gelu(x W_1 + b_1) W_2 + b_2, with F = 4 D in the paper."""

    def __init__(self, config: GPT1Config):
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Transforms every position by itself: (B, T, D) to (B, T, D)."""
        return self.contract(gelu(self.expand(hidden_states)))  # B T D -> B T F -> B T D


class GPT1Block(GradientCheckpointingLayer):
    """The paper's `transformer_block`: attention and a feed-forward layer, each followed by `norm(x + output)`.

    Layer normalisation (Ba et al. 2016) gives the D elements of every position mean 0 and variance 1, and then scales
    and shifts each element by two learned vectors:

        norm(x) = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias

    As in the original Transformer it follows the sum, so every block normalises the residual stream itself. Later
    GPTs normalise the input of each layer and leave the residual stream as it is.
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
        """Computes h_l from h_{l-1}: (B, T, D) to (B, T, D); the other arguments are those of `GPT1Attention`."""
        attended, _ = self.attention(hidden_states, attention_mask=attention_mask, cache=cache, **kwargs)
        attended = dropout(attended, self.residual_dropout, self.training)
        hidden_states = self.attention_norm(hidden_states + attended)
        transformed = dropout(self.mlp(hidden_states), self.residual_dropout, self.training)
        return self.mlp_norm(hidden_states + transformed)


class GPT1PreTrainedModel(LoadsOldKeys, SavedWithUmask, PreTrainedModel):
    """Loading, saving and initialisation.

    The library initialises linear layers and embeddings from N(0, `initializer_range`^2) and biases with 0. Section
    4.1 has N(0, 0.02), and explains that layer normalisation everywhere makes so simple a choice sufficient.
    """

    config: GPT1Config
    base_model_prefix = "model"
    old_keys = {"output_projection": "out_proj"}
    supports_gradient_checkpointing = True
    _no_split_modules = ["GPT1Block", "LSTMBlock"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # Both kinds of blocks are such layers, and no other module is.
    _can_record_outputs = {"hidden_states": GradientCheckpointingLayer, "attentions": GPT1Attention}
    # A fine-tuned checkpoint loads into every class without a warning about the head that the class does not have.
    _keys_to_ignore_on_load_unexpected = [r"^(choice_)?score\.", r"^lm_head\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PositionEmbedding) and self.config.sinusoidal_positions:
            table = sinusoids(*module.weight.shape)
            init.copy_(module.weight, table * math.sqrt(2) * self.config.initializer_range)
        else:
            super()._init_weights(module)


class PositionEmbedding(nn.Embedding):
    """W_p of equation 2: a learned vector for every position."""


def sinusoids(positions: int, width: int) -> torch.Tensor:
    """Returns a (positions, width) table of sines, then cosines, with wavelengths from 2 pi to 20,000 pi.

    Vaswani et al. 2017, section 3.5. The translators' table has the same columns in another order.
    """
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angles = torch.arange(positions)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


def only_one(input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
    """Returns the argument that is given.

    Raises:
        ValueError: both or neither are given.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("Give exactly one of input_ids and inputs_embeds.")
    return inputs_embeds if input_ids is None else input_ids


class GPT1Model(GPT1PreTrainedModel):
    """Embeddings and blocks: equation 2 of the paper up to h_n."""

    def __init__(self, config: GPT1Config):
        super().__init__(config)
        self.tokens_embed = nn.Embedding(config.vocab_size, config.hidden_size)  # W_e
        self.positions_embed = PositionEmbedding(config.max_position_embeddings, config.hidden_size)
        block = GPT1Block if config.lstm_size is None else LSTMBlock  # the LSTM is the paper's ablation
        self.blocks = nn.ModuleList(block(config, layer_idx) for layer_idx in range(config.num_hidden_layers))
        self.is_causal = config.attention == "causal"
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
        """Computes the last block's hidden states h_n.

        Args:
            input_ids: (B, T) tokens.
            attention_mask: (B, S) with 0 for padding, on either side; `None` if there is no padding. A (B, 1, T, S)
                mask is used as it is.
            position_ids: (B, T), by default the number of real tokens before each token according to a (B, S)
                mask, else counted from the end of the cache. Where they restart within a row and neither padding nor
                a filled cache is given, a new document begins. Its positions do not attend to the document before.
            cache: a cache to read and extend.
            inputs_embeds: (B, T, D), token embeddings in place of `input_ids`.
            use_cache: whether to return a cache; by default the config's `use_cache`, and false in training. A
                bidirectional model has none.

        Returns:
            The hidden states, (B, T, D), and the cache.

        Raises:
            ValueError: both or neither of `input_ids` and `inputs_embeds` are given, the sequence is longer than
                `max_position_embeddings`, a (B, S) mask is too short for the cached tokens and the input's, an LSTM
                gets padding before tokens, or a bidirectional model gets a cache.
            TypeError: an argument is unknown, or the cache is of a class that the model cannot use.
        """
        if only_one(input_ids, inputs_embeds) is input_ids:
            inputs_embeds = self.tokens_embed(input_ids)
        if self.config.lstm_size is not None:
            refuse_padding_before_tokens(attention_mask)
        # This comes before a cache is created, because the library detects packed documents only without a cache. The
        # arguments are positional, because versions of the library name the cache differently. A paged cache comes
        # with a mask.
        if self.is_causal:
            mask = create_causal_mask(
                self.config, inputs_embeds, attention_mask, cache if isinstance(cache, Cache) else None, position_ids
            )
        else:
            refuse_cache(cache)
            mask = create_document_mask(self.config, inputs_embeds, attention_mask, position_ids)
            use_cache = False
        if (
            is_flash_attention_requested(self.config)
            and position_ids is not None
            and attention_mask is None
            and cache is None
        ):
            # The library finds the documents of a single row for FlashAttention, but not those of several rows.
            lengths, longest = prepare_fa_kwargs_from_position_ids(position_ids)
            kwargs.update(zip(("cu_seq_lens_q", "cu_seq_lens_k"), lengths, strict=True))
            kwargs.update(zip(("max_length_q", "max_length_k"), longest, strict=True))
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            cache, use_cache = None, False  # a block that runs a second time would extend the cache again
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            position_ids = self._count_positions(inputs_embeds, attention_mask, cache)

        hidden_states = inputs_embeds + self.positions_embed(position_ids)  # B T D: h_0 = U W_e + W_p
        device_type = hidden_states.device.type
        if device_type == "cpu" and torch.is_autocast_enabled("cpu"):
            # On CPU, autocast runs layer normalisation in its input's type. With this line the residual stream, which
            # every block normalises again, stays in the type of the matrix products. That saves four conversions a
            # block.
            hidden_states = hidden_states.to(torch.get_autocast_dtype("cpu"))
        hidden_states = dropout(hidden_states, self.config.embedding_dropout, self.training)
        # The library's early exit (`assistant_early_exit`) sets a smaller num_hidden_layers during generation.
        for layer_idx in range(self.config.num_hidden_layers):
            hidden_states = self.blocks[layer_idx](hidden_states, attention_mask=mask, cache=cache, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=hidden_states, **{CACHE_NAME: cache if use_cache else None})

    def _count_positions(
        self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None, cache: Cache | None
    ) -> torch.Tensor:
        """Returns the positions of the input's tokens, (B, T) with a (B, S) mask and (1, T) without one."""
        seen = cache.get_seq_length() if cache is not None else 0
        length = inputs_embeds.shape[1]
        if isinstance(seen, int) and seen + length > self.config.max_position_embeddings:
            raise ValueError(
                f"The sequence has {seen + length} tokens, but the model's max_position_embeddings is "
                f"{self.config.max_position_embeddings}: shorten it, or split it into windows."
            )
        columns = torch.arange(length, device=inputs_embeds.device) + seen  # T
        if attention_mask is None or attention_mask.ndim != 2:
            return columns.unsqueeze(0)
        if isinstance(seen, int) and attention_mask.shape[1] < seen + length:
            raise ValueError(
                f"attention_mask has {attention_mask.shape[1]} columns, but there are {seen} cached tokens and "
                f"{length} new ones: it must have a column for each of them."
            )
        # A token's position is the number of real tokens before it, so padding on the left shifts nothing.
        return ((attention_mask != 0).cumsum(dim=1) - 1).clamp(min=0)[:, columns]


class GPT1ForCausalLM(GPT1PreTrainedModel, GPT1GenerationMixin):
    """GPT-1 as a language model: a softmax over h_n W_e^T, where W_e is the table of token embeddings (equation 2).

    Raises:
        ValueError: the config's `attention` is bidirectional, so that the next token would be visible.
    """

    _tied_weights_keys = {"lm_head.weight": "model.tokens_embed.weight"}

    def __init__(self, config: GPT1Config):
        super().__init__(config)
        refuse_bidirectional(config)
        self.model = GPT1Model(config)
        # Assisted generation removes rejected tokens from the cache, which an LSTM's state does not allow.
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
        """Predicts the next token at every position.

        Args:
            input_ids, attention_mask, position_ids, cache, inputs_embeds, use_cache: as in
                `GPT1Model.forward`.
            labels: (B, T), usually `input_ids` with `-100` for tokens that are not counted; see `next_token_loss`.
            logits_to_keep: the number of last positions to compute logits for, 0 for all; or a tensor of the
                positions' indices. The loss always covers every label: to evaluate without holding all logits, pass
                labels and 1.
            num_items_in_batch: the number of labels in the whole update; see `next_token_loss`.
            shift_labels: (B, T) labels that are already shifted; see `next_token_loss`.

        Returns:
            The loss if labels are given; the logits, (B, T, V), or `None` in training mode with labels, because the
            loss never holds all logits; the cache; hidden states, (B, T, D) each, and attention weights,
            (B, H, T, S) each, if requested.

        Raises:
            ValueError: as `GPT1Model.forward`; `num_items_in_batch` is given without labels; or labels are not (B, T).
            TypeError: as `GPT1Model.forward`.
        """
        # Not in the signature: the library's Trainer takes every argument with "label" in its name for a data column.
        shift_labels = kwargs.pop("shift_labels", None)
        has_labels = labels is not None or shift_labels is not None
        if not has_labels:
            refuse_external_loss(num_items_in_batch, "labels would not be shifted")
            inputs = (input_ids, attention_mask, position_ids, cache)
            # Skip on first reading: generate() on CPU computes single tokens without calling the modules.
            step = self._token_step  # read once: another thread that leaves generate() may reset it
            if step is not None and step.supports_input(*inputs, inputs_embeds=inputs_embeds, **kwargs):
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
        if has_labels:
            loss = next_token_loss(hidden_states, self.lm_head, labels, num_items_in_batch, shift_labels)
        if not (has_labels and self.training):
            # If the rows were not contiguous, PyTorch might copy frozen weights for each sample of a batched product.
            logits = self.lm_head(slice_logits_to_keep(hidden_states, logits_to_keep).contiguous())  # B T D -> B T V
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def make_token_step(self) -> TokenStep | None:
        modules = (GPT1ForCausalLM, GPT1Model, PositionEmbedding, GPT1Block, GPT1Attention, GPT1MLP)
        return TokenStep(self) if TokenStep.supports_model(self, modules) else None


__all__ = [
    "GPT1ForCausalLM",
    "GPT1Model",
    "GPT1PreTrainedModel",
]

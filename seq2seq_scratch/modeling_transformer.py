"""The Transformer of Vaswani et al. 2017, "Attention Is All You Need", in the order of the paper's section 3.

The file has more than 500 lines, because it holds the whole paper: attention, layers, both stacks and the softmax
layer are read together.

The code is in plain form where the two forms differ: attention as in equation 1, the causal mask as a triangle, a
source that is repeated for every beam. By default, the attention functions and masks of the library run, and the beams
of a sentence share its source. Run a model inside `plain_forms()` to step through the plain form in a debugger.

Dimensions: B batch, S source length, T target length, Q queries, K keys, D model width (d_model), F inner width of the
feed-forward layer (d_ff), V target vocabulary, H heads, d_k and d_v the width of one head's keys and values.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .beam_search import BeamSearchGenerationMixin, keep_rows
from .configuration_transformer import TransformerConfig
from .dropout import Dropout
from .file_modes import SavedWithUmask
from .library_arguments import CACHE_NAME, understand_arguments
from .plain_forms import plain_forms_are_on
from .seq2seq_common import (
    TokenEmbedding,
    check_encoder_outputs,
    check_rows,
    shift_tokens_right,
    source_mask,
)
from .token_loss import target_token_loss

# Weights of one head and sentence, which grow with the square of its length: those of a text of many pages would fill
# the memory. Above this number, the fused kernel runs, which holds only a part of them at a time.
MAX_EAGER_WEIGHTS = 2**22


def scaled_dot_product_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equation 1, section 3.2.1: Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V.

    Every query q is compared with every key k by their dot product, and gets the sum of the values weighted by the
    softmax of the results.

    Why divide by sqrt(d_k)? If the elements of q and k are independent with mean 0 and variance 1, each product
    q_i k_i has mean 0 and variance 1, and q . k = sum_i q_i k_i has variance d_k. For d_k = 64 the scores would have a
    standard deviation of 8. A softmax of such numbers puts almost all weight on one key, and there its gradient
    vanishes. After the division the variance is 1 for any d_k.

    This is the library's "eager" attention; its other implementations take the same arguments.

    Args:
        module: the calling layer, which knows whether it is in training.
        query: (B, H, Q, d_k).
        key: (B, H, K, d_k).
        value: (B, H, K, d_v).
        attention_mask: (B, 1, Q, K), added to the scores: 0 where a query may look and the lowest number where it may
            not, which the softmax turns into a weight of 0. `None` hides nothing.
        scaling: 1 / sqrt(d_k).
        dropout: probability of dropping a weight.

    Returns:
        The weighted sums of values, (B, Q, H, d_v), and the weights, (B, H, Q, K).
    """
    scores = torch.matmul(query, key.transpose(-1, -2)) * scaling  # B H Q d_k, B H d_k K -> B H Q K
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2), weights  # B H Q K, B H K d_v -> B H Q d_v -> B Q H d_v


class MultiHeadAttention(nn.Module):
    """Section 3.2.2: MultiHead(Q, K, V) = Concat(head_1, ..., head_H) W^O.

    Here head_i = Attention(Q W^Q_i, K W^K_i, V W^V_i), with W^Q_i, W^K_i (D, d_k), W^V_i (D, d_v), W^O (H d_v, D).
    One head averages over all that it attends to; several heads can each attend to something else.

    The H projections of each kind are one matrix, whose output is split into heads. All four have biases, which the
    equation leaves out: they are 0.06 % of the base model's parameters, and `torch.nn.MultiheadAttention` has them.

    Args:
        config: sizes, dropout and the attention implementation.
        heads: H.
        layer_idx: the layer's index in the cache; `None` in the encoder, which has no cache.
        is_causal: whether queries may not look at later keys; read by implementations that take no mask for this.
    """

    def __init__(self, config: TransformerConfig, heads: int, layer_idx: int | None = None, is_causal: bool = False):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal
        self.d_k = config.d_k or config.d_model // heads
        self.d_v = config.d_v or config.d_model // heads
        self.scaling = self.d_k**-0.5
        self.q_proj = nn.Linear(config.d_model, heads * self.d_k)
        self.k_proj = nn.Linear(config.d_model, heads * self.d_k)
        self.v_proj = nn.Linear(config.d_model, heads * self.d_v)
        self.out_proj = nn.Linear(heads * self.d_v, config.d_model)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Any = None,
        encoder_hidden_states: torch.Tensor | None = None,
        cache: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Section 3.2.3: attends from every position to its own sequence, or to the encoder's states if given.

        Args:
            hidden_states: (B, Q, D), from which the queries are computed.
            attention_mask: a mask as the attention implementation takes it, made once per forward pass.
            encoder_hidden_states: (B, S, D), from which keys and values are computed in encoder-decoder attention;
                (B / n, S, D) if n neighbouring rows share a source.
            cache: keys and values of earlier target positions, and those of the source, which are computed at the
                first position only.
            kwargs: passed on to the attention implementation.

        Returns:
            The output, (B, Q, D), and the weights, (B, H, Q, K), or `None` if the implementation does not return them.
        """
        query = self._split_heads(self.q_proj(hidden_states), self.d_k)  # B Q D -> B H Q d_k
        if encoder_hidden_states is None:
            key, value = self._keys_and_values(hidden_states)
            if cache is not None:
                key, value = cache.self_attention_cache.update(key, value, self.layer_idx)
        elif cache is None:
            key, value = self._keys_and_values(encoder_hidden_states)
        else:
            source = cache.cross_attention_cache
            if cache.is_updated.get(self.layer_idx):
                key, value = source.layers[self.layer_idx].keys, source.layers[self.layer_idx].values
            else:
                key, value = source.update(*self._keys_and_values(encoder_hidden_states), self.layer_idx)
                cache.is_updated[self.layer_idx] = True
        attention = scaled_dot_product_attention
        if not plain_forms_are_on():
            implementation = self.config._attn_implementation
            wants_weights = kwargs.get("output_attentions") or self.config.output_attentions
            too_many = query.shape[2] * key.shape[2] > MAX_EAGER_WEIGHTS
            if implementation == "eager" and too_many and not (torch.is_grad_enabled() or wants_weights):
                implementation = "sdpa"
            attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, attention)
        # Skip on first reading: the beams of one source put their queries to it together, so its keys need no copies.
        beams = query.shape[0] // key.shape[0]
        if beams > 1:
            query = query.unflatten(0, (-1, beams)).transpose(1, 2).flatten(2, 3)  # B H Q d_k -> B/n H nQ d_k
        attended, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        if beams > 1:
            attended = attended.unflatten(1, (beams, -1)).flatten(0, 1)  # B/n nQ H d_v -> B Q H d_v
            weights = None if weights is None else weights.unflatten(2, (beams, -1)).transpose(1, 2).flatten(0, 1)
        return self.out_proj(attended.flatten(2)), weights  # B Q H d_v -> B Q D

    def _keys_and_values(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes keys, (B, H, K, d_k), and values, (B, H, K, d_v), from states, (B, K, D)."""
        return self._split_heads(self.k_proj(states), self.d_k), self._split_heads(self.v_proj(states), self.d_v)

    @staticmethod
    def _split_heads(projected: torch.Tensor, width: int) -> torch.Tensor:
        """Splits heads: (B, Q, H * width) to (B, H, Q, width)."""
        return projected.unflatten(-1, (-1, width)).transpose(1, 2)


class PositionWiseFeedForward(nn.Module):
    """Equation 2, section 3.3: FFN(x) = max(0, x W_1 + b_1) W_2 + b_2, the same at every position."""

    def __init__(self, config: TransformerConfig, d_ff: int):
        super().__init__()
        self.inner = nn.Linear(config.d_model, d_ff)
        self.outer = nn.Linear(d_ff, config.d_model)
        self.activation = ACT2FN[config.activation_function]
        self.dropout = Dropout(config.activation_dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Transforms every position by itself: (B, Q, D) to (B, Q, D)."""
        return self.outer(self.dropout(self.activation(self.inner(hidden_states))))  # B Q D -> B Q F -> B Q D


class ScaledEmbedding(TokenEmbedding):
    """Section 3.4: a vector for every token, times sqrt(d_model).

    The same weights are the matrix of the softmax layer, where rows of norm about 1 give the first logits a variance
    near 1. The factor gives the embeddings the size of the positions, to which they are added.
    """

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Looks up (B, T) token ids: returns (B, T, D). Raises ValueError for an id outside the table."""
        return super().forward(input_ids) * math.sqrt(self.embedding_dim)


def sinusoids(positions: int, width: int) -> torch.Tensor:
    """Section 3.5: PE(pos, 2i) = sin(pos / 10000^(2i/width)), PE(pos, 2i+1) = cos(pos / 10000^(2i/width)).

    Attention itself does not know the order of its keys, so positions are added to the embeddings. Why sinusoids? Each
    pair of columns is a clock hand that turns at its own rate, from one radian a position to one in 10,000. For any
    distance k, PE(pos + k) is a rotation of PE(pos), the same for all pos: sin and cos of (pos + k) w are fixed linear
    combinations of those of pos w. So a layer can learn to attend by relative distance, and sequences may be longer
    than those seen in training.

    GPT-1's table has the same columns in another order; the packages do not import each other, and a test compares
    the two.

    Args:
        positions: number of rows.
        width: number of columns, even.

    Returns:
        (positions, width) in fp32, sines in even columns and cosines in odd ones.
    """
    # In fp64, because angles reach the number of positions, and fp32 would keep few digits of their fraction.
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10_000) / width))
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * rates  # positions, width/2
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()


class SinusoidalPositions(nn.Module):
    """A table of `sinusoids`, which is computed, never stored in a checkpoint, and grows for longer sequences."""

    def __init__(self, num_positions: int, d_model: int):
        super().__init__()
        self.d_model = d_model
        self.register_buffer("table", sinusoids(num_positions, d_model), persistent=False)

    def forward(self, position_ids: torch.Tensor, length: int) -> torch.Tensor:
        """Looks up (B or 1, T) positions, all below `length`: returns (B or 1, T, D)."""
        if length > self.table.shape[0]:
            # The table doubles, so that a sentence generated word by word does not compute it again at each word.
            self.table = sinusoids(max(length, 2 * self.table.shape[0]), self.d_model).to(self.table)
        return self.table[position_ids]


class LearnedPositions(nn.Embedding):
    """Section 3.5 and Table 3, row E: a learned vector for every position up to a limit."""

    def forward(self, position_ids: torch.Tensor, length: int) -> torch.Tensor:
        """Looks up (B or 1, T) positions, all below `length`: returns (B or 1, T, D).

        Raises:
            ValueError: `length` exceeds the number of learned positions.
        """
        if length > self.num_embeddings:
            raise ValueError(
                f"A sequence of {length} tokens exceeds max_position_embeddings {self.num_embeddings}; learned "
                "positions end there. Shorten it, or train with a larger table or with sinusoidal positions."
            )
        return super().forward(position_ids)


class NoPositions(nn.Module):
    """Adds nothing, to measure what positions do: the encoder's states then do not depend on the order of tokens."""

    def forward(self, position_ids: torch.Tensor, length: int) -> torch.Tensor:
        """Takes what the tables take, and returns a zero, (1, 1, 1)."""
        return position_ids.new_zeros(1, 1, 1, dtype=torch.get_default_dtype())


class AddAndNorm(nn.Module):
    """Sections 3.1 and 5.4: LayerNorm(x + Dropout(Sublayer(x))), around every sub-layer.

    Layer normalisation (Ba et al. 2016) gives the D elements of every position mean 0 and variance 1, and then scales
    and shifts each element by two learned vectors:

        LayerNorm(x) = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias

    Pre-norm, a setting that departs from the paper, is x + Dropout(Sublayer(LayerNorm(x))). Its sums are a path from
    the first layer to the last one that no normalisation interrupts, which makes deep stacks easier to train.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.pre_norm = config.pre_norm
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(self, hidden_states: torch.Tensor, sublayer: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Applies a sub-layer: (B, T, D) to (B, T, D).

        The sub-layer is a function, not a module, because libraries that spread a model over devices would move a
        module along with the states.
        """
        if self.pre_norm:
            return hidden_states + self.dropout(sublayer(self.norm(hidden_states)))
        return self.norm(hidden_states + self.dropout(sublayer(hidden_states)))


def causal_mask(queries: int, keys: int) -> torch.Tensor:
    """Section 3.2.3: a (queries, keys) triangle, True where a query may look: at its own position and those before it.

        1 0 0        the first token sees itself alone
        1 1 0
        1 1 1        the last token sees all

    The queries are the last of the keys' positions. So in training, where all target tokens are read at once (teacher
    forcing), no position sees the token that it has to predict.
    """
    return torch.ones(queries, keys, dtype=torch.bool).tril(diagonal=keys - queries)


def additive_mask(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Returns what `scaled_dot_product_attention` adds to the scores: 0 where visible, the lowest number elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)


def hide_padding(
    config: TransformerConfig,
    queries: torch.Tensor,
    attention_mask: torch.Tensor | None,
    encoder_hidden_states: torch.Tensor | None = None,
) -> Any:
    """Makes the mask that hides source padding, in the encoder's self-attention and in encoder-decoder attention.

    Args:
        config: names the attention implementation, which decides the mask's form.
        queries: (B, Q, D) the states of the queries, for their shape and type.
        attention_mask: (B, K), 1 for tokens and 0 for padding; `None` hides nothing.
        encoder_hidden_states: (B, K, D) the states of the keys, if they are not those of the queries.

    Returns:
        In plain form and in eager attention (B, 1, Q, K), added to the scores: 0 where a query may look and the lowest
        number elsewhere. Other implementations take other forms. `None` if nothing is hidden.
    """
    if plain_forms_are_on():
        if attention_mask is None:
            return None
        visible = attention_mask.bool()[:, None, None].expand(-1, 1, queries.shape[1], -1)  # B K -> B 1 Q K
        return additive_mask(visible, queries.dtype)
    # Without its mask, a batch in which nothing is padding is computed a little faster, but to find that out, the
    # library reads the mask, for which the host waits until a GPU has done all that it was given.
    skip = attention_mask is None or attention_mask.device.type == "cpu"
    return create_bidirectional_mask(
        config, queries, attention_mask, encoder_hidden_states, allow_is_bidirectional_skip=skip
    )


def hide_later_positions(
    config: TransformerConfig,
    queries: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cache: EncoderDecoderCache | None,
) -> Any:
    """Makes the mask of the decoder's self-attention, which hides later positions and padding (section 3.2.3).

    Args:
        config: names the attention implementation.
        queries: (B, T, D) the states of the present target positions, for their shape and type.
        attention_mask: (B, K) over cached and present positions, 1 for tokens and 0 for padding; `None` hides no
            padding. `generate()` hands over a finished (B, 1, T, K) mask when the cache has a fixed size.
        cache: knows how many positions came before.

    Returns:
        As `hide_padding`, with cached and present positions as keys.
    """
    if plain_forms_are_on():
        if attention_mask is not None and attention_mask.dim() == 4:
            is_additive = attention_mask.dtype != torch.bool
            return attention_mask if is_additive else additive_mask(attention_mask, queries.dtype)
        target_length, past_length = queries.shape[1], 0 if cache is None else cache.get_seq_length()
        visible = causal_mask(target_length, past_length + target_length).to(queries.device)  # T K
        if attention_mask is not None:
            visible = visible & attention_mask.bool()[:, None]  # T K, B 1 K -> B T K
        visible = visible.expand(queries.shape[0], -1, -1)[:, None]  # B 1 T K
        return additive_mask(visible, queries.dtype)
    # The arguments are positional, because versions of the library name the cache differently.
    return create_causal_mask(config, queries, attention_mask, None if cache is None else cache.self_attention_cache)


class TransformerEncoderLayer(GradientCheckpointingLayer):
    """Section 3.1: self-attention, then feed-forward."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.self_attention = MultiHeadAttention(config, config.encoder_attention_heads)
        self.self_attention_add_norm = AddAndNorm(config)
        self.feed_forward = PositionWiseFeedForward(config, config.encoder_ffn_dim)
        self.feed_forward_add_norm = AddAndNorm(config)

    def forward(self, hidden_states: torch.Tensor, attention_mask: Any, **kwargs: Any) -> torch.Tensor:
        """Reads and returns (B, S, D); the mask is that of `hide_padding`."""
        hidden_states = self.self_attention_add_norm(
            hidden_states, lambda states: self.self_attention(states, attention_mask, **kwargs)[0]
        )
        return self.feed_forward_add_norm(hidden_states, lambda states: self.feed_forward(states))


class TransformerDecoderLayer(GradientCheckpointingLayer):
    """Section 3.1: masked self-attention, attention over the encoder's output, then feed-forward."""

    def __init__(self, config: TransformerConfig, layer_idx: int):
        super().__init__()
        heads = config.decoder_attention_heads
        self.self_attention = MultiHeadAttention(config, heads, layer_idx, is_causal=True)
        self.self_attention_add_norm = AddAndNorm(config)
        self.cross_attention = MultiHeadAttention(config, heads, layer_idx)
        self.cross_attention_add_norm = AddAndNorm(config)
        self.feed_forward = PositionWiseFeedForward(config, config.decoder_ffn_dim)
        self.feed_forward_add_norm = AddAndNorm(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Any,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: Any,
        cache: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Reads the target's states, (B, T, D), and the encoder's, (B, S, D), and returns (B, T, D).

        The masks are those of `hide_later_positions` and `hide_padding`; the cache is read and extended.
        """
        hidden_states = self.self_attention_add_norm(
            hidden_states,
            lambda states: self.self_attention(states, attention_mask, cache=cache, **kwargs)[0],
        )
        hidden_states = self.cross_attention_add_norm(
            hidden_states,
            lambda states: self.cross_attention(
                states, encoder_attention_mask, encoder_hidden_states, cache, **kwargs
            )[0],
        )
        return self.feed_forward_add_norm(hidden_states, lambda states: self.feed_forward(states))


@dataclass
class TransformerEncoderOutput(BaseModelOutput):
    """The encoder's states, with the mask that was used to compute them.

    `generate()` hands the decoder only this object. Without the mask, the decoder would attend to padding if the
    caller gave none.

    Args:
        last_hidden_state: (B, S, D).
        hidden_states, attentions: of every layer, if asked for; see `BaseModelOutput`.
        attention_mask: (B, S), 1 for tokens and 0 for padding.
    """

    attention_mask: torch.Tensor | None = None


class TransformerPreTrainedModel(SavedWithUmask, PreTrainedModel):
    """Initialisation, and the attributes that the library reads of every part."""

    config: TransformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["TransformerEncoderLayer", "TransformerDecoderLayer"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # `TransformerModel` loads from a translation model without a warning about its softmax layer.
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draws projections from Xavier's distribution and tables from N(0, 1 / d_model); the paper names none."""
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=self.config.d_model**-0.5)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, SinusoidalPositions):
            # from_pretrained builds the model on the meta device, and no checkpoint holds the table.
            init.copy_(module.table, sinusoids(*module.table.shape))

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resizes the shared table; arguments as in the library.

        Raises:
            ValueError: source and target have a table each.
        """
        if not self.config.share_encoder_decoder_embeddings:
            raise ValueError(
                "share_encoder_decoder_embeddings is false: source and target tables cannot be resized as one. Build "
                "the model with the vocab_size and decoder_vocab_size it needs."
            )
        embeddings = super().resize_token_embeddings(new_num_tokens, *args, **kwargs)
        self.config.decoder_vocab_size = self.config.vocab_size
        return embeddings

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        """Chooses eager attention if none is requested and there is no accelerator.

        On CPU, for sentences of ordinary length in bf16, the fused kernel takes several times as long as three
        separate operations, and even longer with dropout.
        """
        if requested_attention is None and not torch.accelerator.is_available():
            requested_attention = "eager"
        return super().get_correct_attn_implementation(requested_attention, is_init_check)


def make_positions(config: TransformerConfig) -> SinusoidalPositions | LearnedPositions | NoPositions:
    """Builds the position table that `position_embedding_type` names."""
    if config.position_embedding_type == "absent":
        return NoPositions()
    kind = {"sinusoidal": SinusoidalPositions, "learned": LearnedPositions}[config.position_embedding_type]
    return kind(config.max_position_embeddings, config.d_model)


def sum_in_compute_dtype(embedded: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Adds positions to embeddings in the precision of products.

    In fp32 under autocast, the sum would be cast again before every projection, forward and backward, and residual
    sums and LayerNorm would move twice the memory. LayerNorm takes its statistics in fp32 either way. Without
    autocast, the table of sinusoids is in fp32 even if the weights are in bf16.

    Args:
        embedded: (B, T, D).
        positions: (B or 1, T, D).

    Returns:
        (B, T, D), in autocast's precision if it is on, otherwise in that of the embeddings.
    """
    device_type = embedded.device.type
    autocast = torch.is_autocast_enabled(device_type)
    return (embedded + positions).to(torch.get_autocast_dtype(device_type) if autocast else embedded.dtype)


class TransformerEncoder(TransformerPreTrainedModel):
    """Section 3.1: a stack of N layers, which reads the sum of source embeddings and positions."""

    _can_record_outputs = {"hidden_states": TransformerEncoderLayer, "attentions": MultiHeadAttention}

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        self.embed_tokens = ScaledEmbedding(config.vocab_size, config.d_model)
        self.embed_positions = make_positions(config)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList([TransformerEncoderLayer(config) for _ in range(config.encoder_layers)])
        self.final_norm = nn.LayerNorm(config.d_model) if config.pre_norm else nn.Identity()
        self.gradient_checkpointing = False
        self.post_init()

    @capture_outputs
    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> TransformerEncoderOutput:
        """Encodes source sentences.

        Args:
            input_ids: (B, S) source token ids.
            attention_mask: (B, S), 1 for tokens and 0 for padding on either side; `None` hides `pad_token_id`.

        Returns:
            The last layer's states, (B, S, D), and the mask; on request the states, (B, S, D), and attention weights,
            (B, H, S, S), of every layer.

        Raises:
            ValueError: there is no source, or the mask does not fit it (see `source_mask`).
        """
        attention_mask = source_mask(input_ids, attention_mask, self.config.pad_token_id).long()
        # Positions count tokens, so that a sentence is the same whichever side its padding is on.
        position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        positions = self.embed_positions(position_ids, input_ids.shape[1])
        hidden_states = self.dropout(sum_in_compute_dtype(self.embed_tokens(input_ids), positions))
        mask = hide_padding(self.config, hidden_states, attention_mask)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, **kwargs)
        return TransformerEncoderOutput(
            last_hidden_state=self.final_norm(hidden_states), attention_mask=attention_mask
        )


class TransformerDecoder(TransformerPreTrainedModel):
    """Section 3.1: a stack of N layers, which reads the sum of target embeddings and positions up to each position."""

    _can_record_outputs = {
        "hidden_states": TransformerDecoderLayer,
        "attentions": OutputRecorder(MultiHeadAttention, index=1, layer_name="self_attention"),
        "cross_attentions": OutputRecorder(MultiHeadAttention, index=1, layer_name="cross_attention"),
    }

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        self.embed_tokens = ScaledEmbedding(config.decoder_vocab_size, config.d_model)
        self.embed_positions = make_positions(config)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList([TransformerDecoderLayer(config, index) for index in range(config.decoder_layers)])
        self.final_norm = nn.LayerNorm(config.d_model) if config.pre_norm else nn.Identity()
        self.gradient_checkpointing = False
        self.post_init()

    @understand_arguments(EncoderDecoderCache)
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Reads target tokens: all of them, or those that follow the tokens in the cache.

        Args:
            input_ids: (B, T) target token ids.
            encoder_hidden_states: (B, S, D), or (B / n, S, D) if n neighbouring rows share a source.
            encoder_attention_mask: (B, S) or (B / n, S), 1 for source tokens and 0 for padding; `None` hides nothing.
            attention_mask: (B, K) over the cached and the present target tokens, 1 for tokens and 0 for padding. Not
                needed if padding is on the right, because no token looks there.
            cache: keys and values of earlier target tokens; created here if `use_cache` asks for one.
            use_cache: by default the config's.

        Returns:
            The last layer's states, (B, T, D), and the cache; on request the states, (B, T, D), the attention weights,
            (B, H, T, K), and the weights over the source, (B, H, T, S), of every layer.
        """
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            cache = None  # a layer that runs a second time would extend the cache again
        elif use_cache and cache is None:
            cache = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache(config=self.config))
        past_length = 0 if cache is None else cache.get_seq_length()
        target_length = input_ids.shape[1]
        length = past_length + target_length
        if attention_mask is None or attention_mask.dim() != 2:
            position_ids = torch.arange(past_length, length, device=input_ids.device)[None]
        else:
            position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, -target_length:]
        positions = self.embed_positions(position_ids, length)
        hidden_states = self.dropout(sum_in_compute_dtype(self.embed_tokens(input_ids), positions))
        mask = hide_later_positions(self.config, hidden_states, attention_mask, cache)
        queries = hidden_states.reshape(encoder_hidden_states.shape[0], -1, self.config.d_model)  # (B / n, n * T, D)
        encoder_mask = hide_padding(self.config, queries, encoder_attention_mask, encoder_hidden_states)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, encoder_hidden_states, encoder_mask, cache=cache, **kwargs)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.final_norm(hidden_states), **{CACHE_NAME: cache}
        )


class TransformerModel(TransformerPreTrainedModel):
    """Figure 1 without the softmax layer: encoder and decoder.

    Args:
        config: sizes and options.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        self.encoder = TransformerEncoder(config)
        self.decoder = TransformerDecoder(config)
        if config.share_encoder_decoder_embeddings:
            self._tied_weights_keys = {"decoder.embed_tokens.weight": "encoder.embed_tokens.weight"}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.embed_tokens = value
        if self.config.share_encoder_decoder_embeddings:
            self.decoder.embed_tokens = value

    @understand_arguments(EncoderDecoderCache)
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: TransformerEncoderOutput | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Seq2SeqModelOutput:
        """Encodes the source, unless `encoder_outputs` has its states already, and reads the target.

        Args:
            input_ids: (B, S) source token ids.
            attention_mask: (B, S), 1 for tokens and 0 for padding; `None` hides `pad_token_id`.
            decoder_input_ids: (B, T) target token ids, shifted right.
            decoder_attention_mask: (B, K) over cached and present target tokens; see `TransformerDecoder`.
            encoder_outputs: the encoder's output for this source.
            cache: keys and values of earlier target tokens.
            use_cache: by default the config's.

        Returns:
            The decoder's last states, (B, T, D), the cache and the encoder's last states, (B, S, D); on request the
            states and attention weights of every layer of both.

        Raises:
            ValueError: there is no source or no target, or one does not fit the other.
            TypeError: `encoder_outputs` is a tuple, which does not say where the mask is.
        """
        if decoder_input_ids is None:
            raise ValueError("There is no target. Give decoder_input_ids or labels; to translate, call generate().")
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask, **kwargs)
            check_rows(input_ids, decoder_input_ids)
        check_encoder_outputs(encoder_outputs)
        if attention_mask is None:
            attention_mask = encoder_outputs.get("attention_mask")
        decoder_outputs = self.decoder(
            decoder_input_ids,
            encoder_outputs.last_hidden_state,
            attention_mask,
            decoder_attention_mask,
            cache,
            use_cache=use_cache,
            **kwargs,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=decoder_outputs.last_hidden_state,
            **{CACHE_NAME: decoder_outputs.get(CACHE_NAME)},
            decoder_hidden_states=decoder_outputs.hidden_states,
            decoder_attentions=decoder_outputs.attentions,
            cross_attentions=decoder_outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )


class TransformerForConditionalGeneration(TransformerPreTrainedModel, BeamSearchGenerationMixin):
    """Figure 1: encoder, decoder, and the softmax layer, whose matrix is the table of target embeddings."""

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        self.model = TransformerModel(config)
        self.lm_head = nn.Linear(config.d_model, config.decoder_vocab_size, bias=False)
        if config.share_encoder_decoder_embeddings:
            source = "model.encoder.embed_tokens.weight"
            self._tied_weights_keys = {"lm_head.weight": source, "model.decoder.embed_tokens.weight": source}
        else:
            self._tied_weights_keys = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def _reorder_cache(self, cache: EncoderDecoderCache, beam_idx: torch.Tensor) -> EncoderDecoderCache:
        """Reorders the target's keys and values; hypotheses move among those of one source, so its own can stay."""
        cache.self_attention_cache.reorder_cache(beam_idx)
        return cache

    def _keep_sentences(
        self,
        sentences: torch.Tensor,
        beams: int,
        encoder_outputs: TransformerEncoderOutput,
        attention_mask: torch.Tensor | None = None,
        **model_kwargs: Any,
    ) -> dict[str, Any]:
        """Keeps some of the sources, each of which has one row for all its beams, as have its keys and values."""
        if model_kwargs.get(CACHE_NAME) is not None:
            model_kwargs[CACHE_NAME].cross_attention_cache.reorder_cache(sentences)
        return keep_rows(sentences, encoder_outputs, attention_mask)

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = True,
        input_ids: torch.Tensor | None = None,
        encoder_outputs: TransformerEncoderOutput | None = None,
        attention_mask: torch.Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Repeats the target for every beam; in plain form the source as well, which otherwise keeps one row."""
        if plain_forms_are_on():
            source = {"encoder_outputs": encoder_outputs, "attention_mask": attention_mask}
            return super()._expand_inputs_for_generation(
                expand_size, is_encoder_decoder, input_ids=input_ids, **source, **model_kwargs
            )
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder=False, input_ids=input_ids, **model_kwargs
        )
        return input_ids, model_kwargs | {"encoder_outputs": encoder_outputs, "attention_mask": attention_mask}

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Returns the decoder's input for teacher forcing, (B, T), from labels, (B, T)."""
        return shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)

    @understand_arguments(EncoderDecoderCache)
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: TransformerEncoderOutput | None = None,
        cache: Cache | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        smoothing: float = 0.0,
        r_drop_weight: float = 0.0,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Seq2SeqLMOutput:
        """Predicts every target token from the source and the target tokens before it.

        Args:
            input_ids, attention_mask, decoder_attention_mask, encoder_outputs, cache: see `TransformerModel`.
            decoder_input_ids: (B, T) target token ids; by default `labels` shifted right.
            labels: (B, T) target token ids to predict; `-100` where there is nothing to predict.
            use_cache: by default the config's without `labels`, and false with them.
            smoothing: label smoothing of section 5.4, from 0 (off) to 1; see `smoothed_cross_entropy`. It is not
                called `label_smoothing`, because the library's `Trainer` takes every argument with "label" in its name
                for a column of labels.
            r_drop_weight: weight of R-Drop, for which the second half of the batch repeats the first; see
                `smoothed_cross_entropy`.
            num_items_in_batch: number of target tokens in the whole update; the summed loss is divided by it.
            kwargs: requests for states and attention weights, and arguments of the attention implementation.

        Returns:
            The loss, a scalar, if there are labels, and the logits, (B, T, V). In training with labels the logits are
            `None`, because the loss never holds them all.
        """
        if labels is not None:
            use_cache = bool(use_cache)
            if decoder_input_ids is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        outputs = self.model(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            encoder_outputs,
            cache,
            use_cache=use_cache,
            **kwargs,
        )
        loss = None
        if labels is not None:
            loss = target_token_loss(
                outputs.last_hidden_state,
                self.lm_head,
                labels,
                label_smoothing=smoothing,
                r_drop_weight=r_drop_weight,
                num_items_in_batch=num_items_in_batch,
            )
        logits = None if self.training and labels is not None else self.lm_head(outputs.last_hidden_state)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
            decoder_hidden_states=outputs.decoder_hidden_states,
            decoder_attentions=outputs.decoder_attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
            encoder_attentions=outputs.encoder_attentions,
        )

"""The Transformer of Vaswani et al. 2017, "Attention Is All You Need", in the order of the paper's section 3.

Dimensions: B batch, S source length, T target length, Q queries, K keys, D d_model, F d_ff, V target vocabulary,
h heads, d_k and d_v the width of one head's keys and values.
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
from .seq2seq_common import shift_tokens_right
from .token_loss import target_token_loss


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

    The library's "eager" attention; its other implementations take the same arguments.

    Args:
        module: the calling layer; tells whether dropout is on.
        query: (B, h, Q, d_k).
        key: (B, h, K, d_k).
        value: (B, h, K, d_v).
        attention_mask: (B, 1, Q, K) to be added to the scores, 0 where a query may look and the lowest number where
            not; `None` hides nothing.
        scaling: 1 / sqrt(d_k), without which large d_k push the softmax to where its gradient vanishes.
        dropout: probability of dropping a weight.

    Returns:
        (B, Q, h, d_v) weighted sums of values, and the (B, h, Q, K) weights.
    """
    scores = torch.matmul(query, key.transpose(-1, -2)) * scaling  # (B, h, Q, K)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2), weights


class MultiHeadAttention(nn.Module):
    """Section 3.2.2: MultiHead(Q, K, V) = Concat(head_1, ..., head_h) W^O.

    Here head_i = Attention(Q W^Q_i, K W^K_i, V W^V_i), with W^Q_i, W^K_i (D, d_k), W^V_i (D, d_v), W^O (h d_v, D).
    The h projections of each kind are one matrix, cut into heads afterwards. All four have biases, which the equation
    leaves out: a tenth of a percent of the parameters, and what `torch.nn.MultiheadAttention` has.

    Args:
        config: sizes, dropout and the attention implementation.
        heads: h.
        layer_idx: which layer of the cache is this layer's; `None` in the encoder, which has no cache.
        is_causal: whether a query may not look at later keys, for implementations that need no mask to know.
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
        """Section 3.2.3: attends from every position to its own sequence, or to the encoder's states where given.

        Args:
            hidden_states: (B, Q, D), whence the queries.
            attention_mask: what the attention implementation takes as a mask, made once per forward pass.
            encoder_hidden_states: (B, S, D), whence keys and values in encoder-decoder attention; (B / n, S, D) where
                n neighbouring rows share a source.
            cache: keys and values of earlier target positions, and those of the source, which are computed
                at the first position only.

        Returns:
            (B, Q, D) and, from eager attention, the weights (B, h, Q, K).
        """
        query = self._split_heads(self.q_proj(hidden_states), self.d_k)
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
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, scaled_dot_product_attention
        )
        # The beams of one source, instead of a copy of its keys each, put their queries to them side by side.
        beams = query.shape[0] // key.shape[0]
        if beams > 1:
            query = query.unflatten(0, (-1, beams)).transpose(1, 2).flatten(2, 3)  # (B / n, h, n * Q, d_k)
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
            attended = attended.unflatten(1, (beams, -1)).flatten(0, 1)  # (B, Q, h, d_v)
            weights = None if weights is None else weights.unflatten(2, (beams, -1)).transpose(1, 2).flatten(0, 1)
        return self.out_proj(attended.flatten(2)), weights

    def _keys_and_values(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, K, D) to keys (B, h, K, d_k) and values (B, h, K, d_v)."""
        return self._split_heads(self.k_proj(states), self.d_k), self._split_heads(self.v_proj(states), self.d_v)

    @staticmethod
    def _split_heads(projected: torch.Tensor, width: int) -> torch.Tensor:
        """(B, Q, h * width) to (B, h, Q, width)."""
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
        """(B, Q, D) to (B, Q, D), by way of (B, Q, F)."""
        return self.outer(self.dropout(self.activation(self.inner(hidden_states))))


class ScaledEmbedding(nn.Embedding):
    """Section 3.4: tokens to vectors, times sqrt(d_model).

    The same weights stand before the softmax, where rows of norm about 1 keep the first logits near unit variance;
    the factor brings them to the size of the positions they are added to.
    """

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(B, T) token ids to (B, T, D). Raises ValueError for an id outside the table."""
        try:
            return super().forward(input_ids) * math.sqrt(self.embedding_dim)
        except IndexError as error:
            raise ValueError(
                f"Token ids run from {int(input_ids.min())} to {int(input_ids.max())}, but the embedding holds "
                f"{self.num_embeddings}; the model's vocab_size or decoder_vocab_size must be the tokenizer's."
            ) from error


class SinusoidalPositions(nn.Module):
    """Section 3.5: PE(pos, 2i) = sin(pos / 10000^(2i/d_model)), PE(pos, 2i+1) = cos(pos / 10000^(2i/d_model)).

    The table is computed, never stored in a checkpoint, and grows when a longer sequence comes.
    """

    def __init__(self, num_positions: int, d_model: int):
        super().__init__()
        self.d_model = d_model
        self.register_buffer("table", self.compute_table(num_positions), persistent=False)

    def compute_table(self, num_positions: int) -> torch.Tensor:
        """(num_positions, D) in fp32, sines at even columns and cosines at odd ones."""
        # In fp64, because angles reach the number of positions and fp32 would keep few digits of their fraction.
        positions = torch.arange(num_positions, dtype=torch.float64)[:, None]
        rates = torch.exp(torch.arange(0, self.d_model, 2, dtype=torch.float64) * (-math.log(10_000) / self.d_model))
        angles = positions * rates  # (num_positions, D / 2)
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()

    def forward(self, position_ids: torch.Tensor, length: int) -> torch.Tensor:
        """(B or 1, T) positions, all below `length`, to (B or 1, T, D)."""
        if length > self.table.shape[0]:
            # Doubling, so that a sentence generated word by word does not rebuild the table at each word.
            self.table = self.compute_table(max(length, 2 * self.table.shape[0])).to(self.table)
        return self.table[position_ids]


class LearnedPositions(nn.Embedding):
    """Section 3.5 and Table 3, row E: one trained vector for each position up to a limit."""

    def forward(self, position_ids: torch.Tensor, length: int) -> torch.Tensor:
        """(B or 1, T) positions, all below `length`, to (B or 1, T, D). Raises ValueError beyond the limit."""
        if length > self.num_embeddings:
            raise ValueError(
                f"A sequence of {length} tokens exceeds max_position_embeddings {self.num_embeddings}; learned "
                "positions end there. Shorten it, or train with a larger table or with sinusoidal positions."
            )
        return super().forward(position_ids)


class AddAndNorm(nn.Module):
    """Sections 3.1 and 5.4: LayerNorm(x + Dropout(Sublayer(x))), around every sub-layer.

    Pre-norm is x + Dropout(Sublayer(LayerNorm(x))), which leaves an undisturbed path through the sums.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.pre_norm = config.pre_norm
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(self, hidden_states: torch.Tensor, sublayer: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """(B, T, D) to (B, T, D).

        The sub-layer is a function, not a module: what spreads a model over devices would move a module along with the
        states.
        """
        if self.pre_norm:
            return hidden_states + self.dropout(sublayer(self.norm(hidden_states)))
        return self.norm(hidden_states + self.dropout(sublayer(hidden_states)))


def hide_padding(
    config: TransformerConfig,
    queries: torch.Tensor,
    attention_mask: torch.Tensor | None,
    encoder_hidden_states: torch.Tensor | None = None,
) -> Any:
    """No position may look at source padding, in the encoder's self-attention and in encoder-decoder attention.

    Args:
        config: names the attention implementation, which decides the mask's form.
        queries: (B, Q, D) states that ask, for their shape and type.
        attention_mask: (B, K), 1 for tokens and 0 for padding; `None` hides nothing.
        encoder_hidden_states: (B, K, D) states that are asked, where they are not the queries.

    Returns:
        In eager attention (B, 1, Q, K) to be added to the scores, 0 where a query may look and the lowest number
        elsewhere. Other implementations have forms of their own. `None` where nothing is hidden.
    """
    return create_bidirectional_mask(config, queries, attention_mask, encoder_hidden_states)


def hide_later_positions(
    config: TransformerConfig,
    queries: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cache: EncoderDecoderCache | None,
) -> Any:
    """Section 3.2.3: in the decoder's self-attention position t may look at positions up to t, and at no padding.

    Args:
        config: names the attention implementation.
        queries: (B, T, D) states of the present target positions, for their shape and type.
        attention_mask: over cached and present positions, 1 for tokens and 0 for padding; `None` hides no padding.
        cache: tells how many positions came before.

    Returns:
        As `hide_padding`, with cached and present positions for keys.
    """
    # By position: the argument's name differs between versions of the library.
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
        """(B, S, D) to (B, S, D)."""
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
        """(B, T, D) and encoder states (B, S, D) to (B, T, D)."""
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
    """The encoder's states with the mask they were made under.

    The mask goes along because `generate()` hands the decoder nothing else, and would leave padding visible to it
    when the caller gave no mask.

    Args:
        attention_mask: (B, S), 1 for tokens and 0 for padding.
    """

    attention_mask: torch.Tensor | None = None


class TransformerPreTrainedModel(SavedWithUmask, PreTrainedModel):
    """Initialisation and what the library needs to know of every part."""

    config: TransformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["TransformerEncoderLayer", "TransformerDecoderLayer"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # The backbone alone loads from a translation model without a word about its softmax.
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Xavier for the projections and N(0, 1 / d_model) for the tables; the paper names no initialisation."""
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
            # from_pretrained builds on the meta device and leaves what no checkpoint holds uninitialised.
            init.copy_(module.table, module.compute_table(module.table.shape[0]))

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resizes the shared table. Raises ValueError where source and target have one each."""
        if not self.config.share_encoder_decoder_embeddings:
            raise ValueError(
                "share_encoder_decoder_embeddings is false: source and target tables cannot be resized as one. Build "
                "the model with the vocab_size and decoder_vocab_size it needs."
            )
        embeddings = super().resize_token_embeddings(new_num_tokens, *args, **kwargs)
        self.config.decoder_vocab_size = self.config.vocab_size
        return embeddings

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        """Eager attention where nothing was asked for and there is no accelerator.

        On CPUs the fused kernel takes several times as long as three plain operations for sentences of ordinary
        length in bf16, and longer still with dropout.
        """
        if requested_attention is None and not torch.accelerator.is_available():
            requested_attention = "eager"
        return super().get_correct_attn_implementation(requested_attention, is_init_check)


def make_positions(config: TransformerConfig) -> SinusoidalPositions | LearnedPositions:
    """The positions that `position_embedding_type` names."""
    kind = {"sinusoidal": SinusoidalPositions, "learned": LearnedPositions}[config.position_embedding_type]
    return kind(config.max_position_embeddings, config.d_model)


def sum_in_compute_dtype(embedded: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The sum of embeddings and positions, in the type autocast computes in where it is on, else the embeddings' own.

    Left in fp32 under autocast they would be cast again before every projection, forward and backward, and residual
    sums and LayerNorm would move twice the memory; LayerNorm takes its statistics in fp32 either way. And the table of
    sinusoids is in fp32 beside weights in bf16.
    """
    device_type = embedded.device.type
    autocast = torch.is_autocast_enabled(device_type)
    return (embedded + positions).to(torch.get_autocast_dtype(device_type) if autocast else embedded.dtype)


class TransformerEncoder(TransformerPreTrainedModel):
    """Section 3.1: N layers over the sum of source embeddings and positions."""

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
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> TransformerEncoderOutput:
        """Encodes source sentences.

        Args:
            input_ids: (B, S) source token ids.
            attention_mask: (B, S), 1 for tokens and 0 for padding on either side; `None` hides `pad_token_id`.

        Returns:
            The last states (B, S, D) and the mask; on request the states and attention weights of every layer.
        """
        if attention_mask is None:
            attention_mask = (input_ids != self.config.pad_token_id).long()
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
    """Section 3.1: N layers over the sum of target embeddings and positions, each position seeing those before it."""

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
        """Reads target tokens, all at once or the next ones after those in the cache.

        Args:
            input_ids: (B, T) target token ids.
            encoder_hidden_states: (B, S, D), or (B / n, S, D) where n neighbouring rows share a source.
            encoder_attention_mask: as many rows and S, 1 for source tokens and 0 for padding; `None` hides nothing.
            attention_mask: over the cached and the present target tokens, 1 for tokens and 0 for padding. Not needed
                where padding is on the right: no token looks there.
            cache: keys and values so far; made here when `use_cache` asks for one.
            use_cache: defaults to the config's.

        Returns:
            The last states (B, T, D) and the cache; on request the states and both attention weights of every layer.
        """
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            cache = None  # a layer that is run a second time must not extend it again
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
    """Figure 1 without the softmax: encoder and decoder.

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
        """Encodes the source, unless `encoder_outputs` holds its states already, and decodes the target.

        Args:
            input_ids: (B, S) source token ids.
            attention_mask: (B, S), 1 for tokens and 0 for padding; `None` hides `pad_token_id`.
            decoder_input_ids: (B, T) target token ids, shifted right.
            decoder_attention_mask: over cached and present target tokens; see the decoder.
            encoder_outputs: what the encoder returned for this source.
            cache: keys and values of earlier target tokens.
            use_cache: defaults to the config's.

        Returns:
            The decoder's last states (B, T, D), the cache and the encoder's states; on request everything in between.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask, **kwargs)
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
    """Figure 1: encoder, decoder, and the softmax whose matrix is the target embedding's."""

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
        """Called as beam search drops and doubles hypotheses, which only happens among those of one source."""
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
        """The source has one row for all its beams, in its keys and values too."""
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
        """Repeats the target for every beam, and leaves the source at one row: its keys and values are as many too."""
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder=False, input_ids=input_ids, **model_kwargs
        )
        return input_ids, model_kwargs | {"encoder_outputs": encoder_outputs, "attention_mask": attention_mask}

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """(B, T) labels to the (B, T) decoder input of teacher forcing."""
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
        """Scores target tokens.

        Args:
            input_ids, attention_mask, decoder_attention_mask, encoder_outputs, cache: as in the model below.
            decoder_input_ids: (B, T) target token ids; made from `labels` where left out.
            labels: (B, T) target token ids to predict, `-100` where none is.
            use_cache: defaults to the config's without `labels`, and to none with them.
            smoothing: between 0 and 1, the label smoothing of section 5.4. The library's `Trainer` would take an
                argument with "label" in its name for a column of labels.
            r_drop_weight: of the difference between the two halves of the batch, which then repeat each other; see
                `target_token_loss`.
            num_items_in_batch: target tokens in the whole update; the summed loss is divided by it.

        Returns:
            The loss where `labels` are given, and logits (B, T, V). In training the loss is computed without them,
            and they are `None`.
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

"""GPT-1 (Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training").

Dimensions: B batch, T positions of the input, S positions attended to (the cached ones and the input's), D hidden
size, H heads, W width of a head, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import GenerationConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, slice_logits_to_keep
from transformers.utils import can_return_tuple, logging
from transformers.utils.generic import is_flash_attention_requested
from transformers.utils.output_capturing import capture_outputs

from .configuration_gpt1 import GPT1Config

logger = logging.get_logger(__name__)

IGNORE_INDEX = -100

# A token's probability counts as at least this much in the loss, lest one that underflows make it infinite.
SMALLEST_LIKELIHOOD = torch.finfo(torch.float32).tiny

# Rows of logits alive at once in the loss: enough for matrix products at full speed, more of them on an accelerator.
LOGIT_ROWS_PER_CHUNK = {"cpu": 1024}
LOGIT_ROWS_PER_CHUNK_ON_ACCELERATORS = 8192

# Queries that attend together on CPU, and how many attention weights are worked on at a time: 2 MB of bfloat16, so
# that one pass over them leaves them in a core's cache for the next.
QUERIES_PER_BLOCK = 128
ATTENTION_WEIGHTS_AT_ONCE = 2**20

SAME_SIZE_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def draw_kept(shape: torch.Size, probability: float, like: torch.Tensor) -> torch.Tensor:
    """Which elements survive dropout, as integers 0 and 1 of the width of `like`'s numbers.

    On CPU `bernoulli_` draws one number at a time and takes as long as the layer it follows. Here four 16-bit numbers
    come out of each 64-bit word of the default generator, so `torch.manual_seed` decides them as it decides all else.
    The probability is exact to 1/65536.
    """
    count = math.prod(shape)
    words = torch.randint(-(2**63), 2**63 - 1, ((count + 3) // 4,))
    kept = words.view(torch.int16)[:count].view(shape).ge_(round(probability * 2**16) - 2**15)
    return kept.to(SAME_SIZE_INTEGER[like.element_size()])


def keep(numbers: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """`numbers` where `kept` is 1, zero where it is 0.

    Multiplying the bit patterns does that in one vectorised pass; a Boolean mask costs ten times as much on CPU.
    """
    return (numbers.view(kept.dtype) * kept).view(numbers.dtype)


class _Dropout(torch.autograd.Function):
    """Inverted dropout with the generator of `draw_kept`."""

    @staticmethod
    def forward(ctx: Any, hidden_states, probability):
        kept = draw_kept(hidden_states.shape, probability, hidden_states)
        ctx.scale = 1 / (1 - probability)
        ctx.save_for_backward(kept)
        return keep(hidden_states.contiguous(), kept) * ctx.scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient):
        (kept,) = ctx.saved_tensors
        return keep(gradient.contiguous(), kept) * ctx.scale, None


def dropout(hidden_states: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """Inverted dropout of any shape: `nn.functional.dropout`, with quicker random numbers on CPU."""
    if not training or probability == 0:
        return hidden_states
    if hidden_states.device.type == "cpu":
        return _Dropout.apply(hidden_states, probability)
    return nn.functional.dropout(hidden_states, probability)


class _BlockedAttention(torch.autograd.Function):
    """Causal attention with dropout on its weights, for training on CPU.

    PyTorch's fused kernel spends most of its time coming back, and six times as much once weights are dropped. Plain
    matrix products around a softmax are faster there, if they leave out the keys that a block of queries cannot see
    and work on few enough weights for the cache.
    """

    @staticmethod
    def forward(ctx: Any, query, key, value, attention_mask, scaling, probability):
        heads = query.shape[1]
        lowest = torch.finfo(query.dtype).min
        future = torch.full((QUERIES_PER_BLOCK, QUERIES_PER_BLOCK), lowest, dtype=query.dtype).triu(1)
        output = torch.empty_like(query)
        saved = []
        for samples, queries, keys in attention_blocks(query.shape):
            q, k, v = head_rows(query[samples, :, queries]), head_rows(key[samples, :, keys]), value[samples, :, keys]
            scores = torch.bmm(q * scaling, k.transpose(1, 2))  # (samples x H, queries, keys)
            if attention_mask is None:
                scores[:, :, queries] += future[: q.shape[1], : q.shape[1]]
            else:
                bias = torch.where(attention_mask[samples, :, queries, keys], 0.0, lowest).to(scores.dtype)
                scores = (scores.unflatten(0, (-1, heads)) + bias).flatten(0, 1)
            weights = torch.softmax(scores, dim=-1)
            saved.append(weights)
            if probability:
                kept = draw_kept(weights.shape, probability, weights)
                saved.append(kept)
                weights, v = keep(weights, kept), v / (1 - probability)
            output[samples, :, queries] = torch.bmm(weights, head_rows(v)).unflatten(0, (-1, heads))
        ctx.save_for_backward(query, key, value, *saved)
        ctx.scaling, ctx.probability = scaling, probability
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient):
        query, key, value, *saved = ctx.saved_tensors
        heads = query.shape[1]
        saved = iter(saved)
        query_gradient, key_gradient, value_gradient = (torch.empty_like(states) for states in (query, key, value))
        for samples, queries, keys in attention_blocks(query.shape):
            q, g = head_rows(query[samples, :, queries]) * ctx.scaling, head_rows(gradient[samples, :, queries])
            k, v = head_rows(key[samples, :, keys]), head_rows(value[samples, :, keys])
            weights = next(saved)
            kept_weights = weights
            if ctx.probability:
                kept = next(saved)
                g = g / (1 - ctx.probability)
                kept_weights = keep(weights, kept)
                weights_gradient = keep(torch.bmm(g, v.transpose(1, 2)), kept)
            else:
                weights_gradient = torch.bmm(g, v.transpose(1, 2))
            scores_gradient = torch._softmax_backward_data(weights_gradient, weights, -1, weights.dtype)
            query_gradient[samples, :, queries] = torch.bmm(scores_gradient, k * ctx.scaling).unflatten(0, (-1, heads))
            k_gradient = torch.bmm(scores_gradient.transpose(1, 2), q).unflatten(0, (-1, heads))
            v_gradient = torch.bmm(kept_weights.transpose(1, 2), g).unflatten(0, (-1, heads))
            if keys.stop == key.shape[2]:  # a sample's first block: see `attention_blocks`
                key_gradient[samples], value_gradient[samples] = k_gradient, v_gradient
            else:
                key_gradient[samples, :, keys] += k_gradient
                value_gradient[samples, :, keys] += v_gradient
        return query_gradient, key_gradient, value_gradient, None, None, None


def attention_blocks(shape: torch.Size) -> Iterator[tuple[slice, slice, slice]]:
    """Cuts causal attention of queries of shape (B, H, T, W) into blocks: samples, queries, and the keys they see.

    The last queries of a sample come first: they see all its keys, so that backward writes every gradient before it
    adds to any.
    """
    batch, heads, length, _ = shape
    samples = max(1, ATTENTION_WEIGHTS_AT_ONCE // (heads * min(length, QUERIES_PER_BLOCK) * length))
    if torch.compiler.is_compiling():  # each block becomes operations of its own in the graph
        samples = batch
    for first in range(0, batch, samples):
        for start in reversed(range(0, length, QUERIES_PER_BLOCK)):
            stop = min(start + QUERIES_PER_BLOCK, length)
            yield slice(first, first + samples), slice(start, stop), slice(0, stop)


def head_rows(states: torch.Tensor) -> torch.Tensor:
    """(samples, H, positions, W) to a contiguous (samples x H, positions, W), as batched matrix products want it."""
    return states.flatten(0, 1).contiguous()


def blocked_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Training on CPU in the form of the library's attention functions; see `_BlockedAttention`.

    Args:
        module: the calling layer.
        query, key, value: (B, H, T, W), the same T: there is no cache in training.
        attention_mask: (B, 1, T, T) Boolean, true where a query sees a key and false for all later keys. `None` stands
            for the causal mask.
        scaling: factor on the scores.
        dropout: share of the attention weights set to zero.

    Returns:
        (B, T, H, W) mixed values, and `None` in place of the attention weights.
    """
    return _BlockedAttention.apply(query, key, value, attention_mask, scaling, dropout).transpose(1, 2), None


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
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output_projection = nn.Linear(config.hidden_size, config.hidden_size)

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
        query, key, value = (
            states.view(batch, length, -1, self.head_width).transpose(1, 2)  # (B, H, T, W)
            for states in self.query_key_value(hidden_states).split(width, dim=-1)
        )
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
            dropout=self.config.attention_dropout if self.training else 0.0,
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
        return self.contract(nn.functional.gelu(self.expand(hidden_states), approximate="tanh"))


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
    """Loading, saving and initialisation; N(0, 0.02) and zero biases are the library's own rule for these layers."""

    config: GPT1Config
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GPT1Block"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": GPT1Block, "attentions": GPT1Attention}


class GPT1Model(GPT1PreTrainedModel):
    """Token and position embeddings and the blocks over them (equation 2 of the paper, without the softmax)."""

    def __init__(self, config: GPT1Config):
        super().__init__(config)
        self.tokens_embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions_embed = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(GPT1Block(config, index) for index in range(config.num_hidden_layers))
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
        **kwargs: Any,
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
            ValueError: both or neither of `input_ids` and `inputs_embeds`, or a sequence beyond the last position.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.tokens_embed(input_ids)
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


class _LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of `hidden_states @ weight.T` over the rows that have a target, some rows at a time.

    All logits, their fp32 copy and their gradient would be the largest tensors of a training step. Each row's
    gradient, softmax - target, needs that row alone, so it is formed here while the row's logits exist and contracted
    at once to D columns. Backward then only scales.
    """

    @staticmethod
    def forward(ctx: Any, hidden_states, weight, targets, dtype):
        counted = targets != IGNORE_INDEX
        # A compiled graph needs shapes that do not depend on the labels: there, rows without a target are multiplied
        # by zero instead of left out.
        compiling = torch.compiler.is_compiling()
        rows = torch.arange(targets.shape[0], device=targets.device) if compiling else counted.nonzero()[:, 0]
        rows_per_chunk = LOGIT_ROWS_PER_CHUNK.get(hidden_states.device.type, LOGIT_ROWS_PER_CHUNK_ON_ACCELERATORS)
        weight_cast = weight.to(dtype)
        needs_gradient = any(ctx.needs_input_grad)
        if needs_gradient:
            hidden_gradient = torch.zeros_like(hidden_states)
            # Summed over chunks in fp32: low precision would lose the later chunks' share.
            weight_gradient = torch.zeros_like(weight, dtype=torch.float32)
        loss = torch.zeros((), dtype=torch.float32, device=hidden_states.device)
        for chunk in rows.split(rows_per_chunk):
            states = hidden_states[chunk].to(dtype)
            weighted = counted[chunk, None]
            target = targets[chunk].clamp(min=0)
            row = torch.arange(target.shape[0], device=target.device)
            # One pass in the logits' own precision: rounding a probability moves its logarithm by less than the
            # rounding of the logits did. float16 alone has too few exponents for it.
            logits = states @ weight_cast.T
            probabilities = torch.softmax(logits, dim=1, dtype=torch.promote_types(dtype, torch.bfloat16))
            likelihood = probabilities[row, target].float()
            loss = loss - (likelihood.clamp(min=SMALLEST_LIKELIHOOD).log() * counted[chunk]).sum()
            if needs_gradient:
                probabilities[row, target] -= 1
                logits_gradient = probabilities.to(dtype)
                hidden_gradient[chunk] = (logits_gradient @ weight_cast * weighted).to(hidden_gradient.dtype)
                weight_gradient += logits_gradient.T @ (states * weighted)
        if needs_gradient:
            ctx.save_for_backward(hidden_gradient, weight_gradient)
            ctx.weight_dtype = weight.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient):
        hidden_gradient, weight_gradient = ctx.saved_tensors
        # Not in place: a second backward through a retained graph would read what the first had scaled.
        return hidden_gradient * loss_gradient, (weight_gradient * loss_gradient).to(ctx.weight_dtype), None, None


def next_token_loss(
    hidden_states: torch.Tensor,
    output_embeddings: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Cross-entropy of every next token (equation 1 of the paper), without ever holding all logits.

    Args:
        hidden_states: (B, T, D) the last block's states.
        output_embeddings: (V, D), the rows of the softmax.
        labels: (B, T) the tokens themselves, which are shifted here: the state at position t predicts the label at
            t + 1. Labels of `-100` do not count and cost nothing.
        num_items_in_batch: the number of labels that count in the whole update. The sum is divided by it, so that
            gradients over several accumulated batches and several processes add up to one large batch's. Left out,
            the loss is the mean over the labels that count.

    Returns:
        The loss, a scalar in fp32.
    """
    targets = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX).flatten()
    if num_items_in_batch is None:
        num_items_in_batch = (targets != IGNORE_INDEX).sum().clamp(min=1)
    elif isinstance(num_items_in_batch, torch.Tensor):
        num_items_in_batch = num_items_in_batch.to(hidden_states.device)
    device_type = hidden_states.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden_states.dtype
    with torch.autocast(device_type, enabled=False):
        loss = _LinearCrossEntropy.apply(hidden_states.flatten(0, 1), output_embeddings, targets, dtype)
    return loss / num_items_in_batch


class GPT1ForCausalLM(GPT1PreTrainedModel, GenerationMixin):
    """GPT-1 with its softmax, which shares the token embeddings' table."""

    _tied_weights_keys = {"lm_head.weight": "model.tokens_embed.weight"}

    def __init__(self, config: GPT1Config):
        super().__init__(config)
        self.model = GPT1Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
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
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Predicts every next token.

        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache: as in
                `GPT1Model.forward`.
            labels: (B, T), usually `input_ids` with `-100` where nothing is to be learnt; see `next_token_loss`.
            logits_to_keep: how many of the last positions get logits, 0 for all; or the indices of those that do. The
                loss always covers every label: to evaluate without holding all logits, pass labels and 1.
            num_items_in_batch: see `next_token_loss`.

        Returns:
            The loss if there are labels; the logits (B, T, V), but `None` in training mode with labels, where the
            loss never holds them; the cache; hidden states and attention weights if asked for.
        """
        if use_cache is None and labels is not None:
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
        if labels is not None:
            loss = next_token_loss(hidden_states, self.lm_head.weight, labels, num_items_in_batch)
        if labels is None or not self.training:
            logits = self.lm_head(slice_logits_to_keep(hidden_states, logits_to_keep))
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

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


__all__ = ["GPT1ForCausalLM", "GPT1Model", "GPT1PreTrainedModel"]

"""Fast forms of GPT-1's training steps on CPU: dropout, GELU and attention.

Skip this file on first reading. `dropout.py` and `modeling_gpt1.py` have the plain forms, and tests hold both to the
same results, up to rounding and the random numbers of dropout. `plain_forms()` turns the fast ones off.

The packages do not import each other, so the translators' package has its own fast dropout; a test compares the two.

Dimensions: B batch, T positions, H heads, W width of a head.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

# Number of queries that attend together, and number of attention weights per chunk: 2 MB of bfloat16, which stay in a
# core's cache from one pass over them to the next.
QUERY_BLOCK_SIZE = 128
ATTENTION_CHUNK_SIZE = 2**20

# Number of elements of GELU per chunk and thread: their fp32 buffers fill half of a core's cache.
GELU_CHUNK_SIZE = 2**16
GELU_SLOPE = 2 * math.sqrt(2 / math.pi)

SAME_SIZE_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def draw_kept(shape: torch.Size, probability: float, like: torch.Tensor) -> torch.Tensor:
    """Draws which elements dropout keeps: integers 0 and 1, as wide as the numbers of `like`, in the given shape.

    On CPU, `bernoulli_` draws one number at a time and takes as long as the layer before it. Here each 64-bit word of
    the default generator, which `torch.manual_seed` seeds, gives four 16-bit numbers. The probability is exact to
    1/65536.
    """
    count = math.prod(shape)
    words = torch.randint(-(2**63), 2**63 - 1, ((count + 3) // 4,))
    kept = words.view(torch.int16)[:count].view(shape).ge_(round(probability * 2**16) - 2**15)
    return kept.to(SAME_SIZE_INTEGER[like.element_size()])


def keep(numbers: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Returns `numbers` where `kept` is 1 and zero where it is 0; both have the same shape.

    The bit patterns are multiplied, in one vectorised pass. A Boolean mask takes ten times as long on CPU.
    """
    return (numbers.view(kept.dtype) * kept).view(numbers.dtype)


class _Dropout(torch.autograd.Function):
    """Dropout with the random numbers of `draw_kept`."""

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


def fast_dropout(hidden_states: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """Computes `dropout` for a tensor of any shape, with faster random numbers on CPU."""
    if not training or probability == 0:
        return hidden_states
    if hidden_states.device.type == "cpu":
        return _Dropout.apply(hidden_states, probability)
    return nn.functional.dropout(hidden_states, probability)


class _Gelu(torch.autograd.Function):
    """The tanh form of GELU; forward computes the derivative as well and saves it in place of the input.

    GELU is `x sigmoid(z)` with `z = 2 sqrt(2 / pi) (x + 0.044715 x^3)`, and its derivative is
    `sigmoid(z) + sigmoid(z) (1 - sigmoid(z)) (3 z - 4 sqrt(2 / pi) x)`. PyTorch's kernels compute a hyperbolic tangent
    both in forward and in backward, and each takes as long as the matrix product before it. Here one sigmoid gives
    both, in fp32, for one chunk at a time, which stays in a core's cache.
    """

    @staticmethod
    def forward(ctx: Any, hidden_states):
        result, derivative = (torch.empty(hidden_states.shape, dtype=hidden_states.dtype) for _ in range(2))
        pieces = (states.view(-1) for states in (hidden_states.contiguous(), result, derivative))
        size = GELU_CHUNK_SIZE * torch.get_num_threads()
        slope = torch.tensor(GELU_SLOPE)
        for piece, result_piece, derivative_piece in zip(*(states.split(size) for states in pieces), strict=True):
            x = piece.float()
            z = torch.addcmul(slope, x, x, value=0.044715 * GELU_SLOPE).mul_(x)
            probability = z.sigmoid()
            z.sub_(x, alpha=2 / 3 * GELU_SLOPE)
            result_piece.copy_(x.mul_(probability))
            bent = torch.ops.aten.sigmoid_backward(z, probability)
            derivative_piece.copy_(probability.add_(bent, alpha=3))
        ctx.save_for_backward(derivative)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient):
        (derivative,) = ctx.saved_tensors
        return gradient * derivative


def fast_gelu(hidden_states: torch.Tensor) -> torch.Tensor:
    """Computes the tanh form of GELU for a tensor of any shape; fastest in training in low precision on CPU."""
    learning = hidden_states.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if learning and hidden_states.device.type == "cpu" and hidden_states.dtype in (torch.bfloat16, torch.float16):
        return _Gelu.apply(hidden_states)
    return nn.functional.gelu(hidden_states, approximate="tanh")


class _BlockedAttention(torch.autograd.Function):
    """Causal or bidirectional attention with dropout on its weights, for training on CPU.

    PyTorch's fused kernel spends most of its time in backward, and six times as much if it drops weights. Matrix
    products and a softmax are faster, provided that they skip the keys after a block of queries, if attention is
    causal, and that the weights of a chunk fit the cache.
    """

    @staticmethod
    def forward(ctx: Any, query, key, value, attention_mask, scaling, probability, causal):
        heads = query.shape[1]
        lowest = torch.finfo(query.dtype).min
        future = torch.full((QUERY_BLOCK_SIZE, QUERY_BLOCK_SIZE), lowest, dtype=query.dtype).triu(1)
        output = torch.empty_like(query)
        saved = []
        for samples, queries, keys in attention_blocks(query.shape, causal):
            q, k, v = head_rows(query[samples, :, queries]), head_rows(key[samples, :, keys]), value[samples, :, keys]
            scores = torch.bmm(q * scaling, k.transpose(1, 2))  # (samples x H, queries, keys)
            if attention_mask is None and causal:
                scores[:, :, queries] += future[: q.shape[1], : q.shape[1]]
            elif attention_mask is not None:
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
        ctx.scaling, ctx.probability, ctx.causal = scaling, probability, causal
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient):
        query, key, value, *saved = ctx.saved_tensors
        heads = query.shape[1]
        saved = iter(saved)
        query_gradient, key_gradient, value_gradient = (torch.empty_like(states) for states in (query, key, value))
        for samples, queries, keys in attention_blocks(query.shape, ctx.causal):
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
            if queries.stop == query.shape[2]:  # the first block of its samples: see `attention_blocks`
                key_gradient[samples], value_gradient[samples] = k_gradient, v_gradient
            else:
                key_gradient[samples, :, keys] += k_gradient
                value_gradient[samples, :, keys] += v_gradient
        return query_gradient, key_gradient, value_gradient, None, None, None, None


def attention_blocks(shape: torch.Size, causal: bool) -> Iterator[tuple[slice, slice, slice]]:
    """Splits attention for queries of shape (B, H, T, W) into blocks: samples, queries and their keys.

    The last queries of a sample come first. They attend to all its keys, so backward writes every element of the
    gradients before it adds to any. If attention is not causal, all queries attend to all keys.
    """
    batch, heads, length, _ = shape
    samples = max(1, ATTENTION_CHUNK_SIZE // (heads * min(length, QUERY_BLOCK_SIZE) * length))
    for first in range(0, batch, samples):
        for start in reversed(range(0, length, QUERY_BLOCK_SIZE)):
            stop = min(start + QUERY_BLOCK_SIZE, length)
            yield slice(first, first + samples), slice(start, stop), slice(0, stop if causal else length)


def head_rows(states: torch.Tensor) -> torch.Tensor:
    """Merges (samples, H, positions, W) into a contiguous (samples x H, positions, W) for batched matrix products."""
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
    """Computes attention in training on CPU; has the signature of the library's attention functions.

    Args:
        module: the calling layer, whose `is_causal` says whether a query attends to no later keys; by default true.
        query, key, value: (B, H, T, W) each; in training there is no cache, so all have the same T.
        attention_mask: (B, 1, T, T) Boolean, true where a query may attend to a key, and false for all later keys if
            attention is causal. `None` means the causal mask, or no mask if it is not.
        scaling: factor on the scores.
        dropout: share of the attention weights that are set to zero.

    Returns:
        The mixed values, (B, T, H, W), and `None` in place of the attention weights.
    """
    causal = getattr(module, "is_causal", True)
    mixed = _BlockedAttention.apply(query, key, value, attention_mask, scaling, dropout, causal)
    return mixed.transpose(1, 2), None  # B H T W -> B T H W

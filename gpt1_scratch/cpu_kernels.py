"""Steps of GPT-1's training in quicker forms: dropout, GELU, causal attention and the vocabulary's loss.

`modeling_gpt1.py` says what is computed; here stands how. Each gives what its plain form would, up to rounding and to
the random numbers that dropout draws.

Dimensions: B batch, T positions, D hidden size, H heads, W width of a head, V vocabulary, N rows of hidden states.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

# Queries that attend together on CPU, and how many attention weights are worked on at a time: 2 MB of bfloat16, so
# that one pass over them leaves them in a core's cache for the next.
QUERIES_PER_BLOCK = 128
ATTENTION_WEIGHTS_AT_ONCE = 2**20

# Elements of GELU that one thread works on at a time: its fp32 buffers fill half of a core's cache.
ELEMENTS_OF_GELU_AT_ONCE = 2**16
GELU_SLOPE = 2 * math.sqrt(2 / math.pi)

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


class _Gelu(torch.autograd.Function):
    """The tanh form of GELU, which keeps its derivative for the way back instead of its input.

    It is `x sigmoid(z)` with `z = 2 sqrt(2 / pi) (x + 0.044715 x^3)`, and its derivative
    `sigmoid(z) + sigmoid(z) (1 - sigmoid(z)) (3 z - 4 sqrt(2 / pi) x)`. PyTorch's kernels take a hyperbolic tangent in
    either direction, and each as long as the matrix product before it. Here both come out of one sigmoid, in fp32, a
    piece at a time that stays in a core's cache.
    """

    @staticmethod
    def forward(ctx: Any, hidden_states):
        result, derivative = (torch.empty(hidden_states.shape, dtype=hidden_states.dtype) for _ in range(2))
        pieces = (states.view(-1) for states in (hidden_states.contiguous(), result, derivative))
        size = ELEMENTS_OF_GELU_AT_ONCE * torch.get_num_threads()
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


def gelu(hidden_states: torch.Tensor) -> torch.Tensor:
    """GELU in its tanh form, of any shape: `nn.functional.gelu`, quicker in training in low precision on CPU."""
    learning = hidden_states.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if learning and hidden_states.device.type == "cpu" and hidden_states.dtype in (torch.bfloat16, torch.float16):
        return _Gelu.apply(hidden_states)
    return nn.functional.gelu(hidden_states, approximate="tanh")


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

"""The fast form of dropout on CPU.

Skip this file on first reading. `dropout.py` has the plain form, and tests hold both to the same rate and scale.

The packages do not import each other, so GPT-1's package has its own fast dropout; a test compares the two.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

SAME_SIZE_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Dropout(torch.autograd.Function):
    """Dropout that draws one random 64-bit word for every four elements."""

    @staticmethod
    def forward(ctx: Any, hidden_states, probability):
        count = hidden_states.numel()
        words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        dropped = round(probability * 2**16)
        kept = words.view(torch.int16)[:count].ge_(dropped - 2**15)
        # The bit patterns are multiplied by 0 or 1, in one vectorised pass. A Boolean mask is much slower on CPU.
        kept = kept.to(SAME_SIZE_INTEGER[hidden_states.element_size()]).view(hidden_states.shape)
        ctx.scale = 2**16 / (2**16 - dropped)
        ctx.save_for_backward(kept)
        return (hidden_states.contiguous().view(kept.dtype) * kept).view(hidden_states.dtype).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient):
        (kept,) = ctx.saved_tensors
        return (gradient.contiguous().view(kept.dtype) * kept).view(gradient.dtype).mul_(ctx.scale), None


def fast_dropout(hidden_states: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """Computes `dropout` for a tensor of any shape, with faster random numbers on CPU.

    PyTorch's own kernel draws one random number after another, which takes a tenth of a training step. Here one 64-bit
    word decides about four elements, so the probability is rounded to a multiple of 2^-16. Compiled code computes
    PyTorch's dropout within its own loops.
    """
    if not training or probability == 0:
        return hidden_states
    if hidden_states.device.type == "cpu" and not torch.compiler.is_compiling():
        return _Dropout.apply(hidden_states, probability)
    return nn.functional.dropout(hidden_states, probability)

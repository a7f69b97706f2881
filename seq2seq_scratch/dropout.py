"""Dropout with quicker random numbers on CPU."""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable


class _QuickDropout(torch.autograd.Function):
    """Dropout on CPUs, from one random 64-bit word for every four numbers."""

    @staticmethod
    def forward(ctx: Any, numbers, probability):
        count = numbers.numel()
        words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        dropped = round(probability * 2**16)
        kept = words.view(torch.int16)[:count].ge_(dropped - 2**15)
        # 0 or 1 as an integer of the numbers' width: times their bit patterns, one quick pass; a Boolean mask is slow.
        kept = kept.to({2: torch.int16, 4: torch.int32, 8: torch.int64}[numbers.element_size()])
        ctx.scale = 2**16 / (2**16 - dropped)
        ctx.save_for_backward(kept.view(numbers.shape))
        return (numbers.contiguous().view(kept.dtype) * kept.view(numbers.shape)).view(numbers.dtype).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient):
        (kept,) = ctx.saved_tensors
        return (gradient.contiguous().view(kept.dtype) * kept).view(gradient.dtype).mul_(ctx.scale), None


class Dropout(nn.Dropout):
    """Zeroes numbers with probability `p` in training and multiplies the others by 1 / (1 - p).

    On CPUs PyTorch's own draws one random number after another, a tenth of a training step. Here one 64-bit word
    decides on four, so `p` is rounded to a multiple of 2^-16.
    """

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return numbers
        if numbers.device.type != "cpu":
            return super().forward(numbers)
        return _QuickDropout.apply(numbers, self.p)

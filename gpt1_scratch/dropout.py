"""Dropout (Srivastava et al. 2014) in plain form."""

import torch

from .cpu_kernels import fast_dropout
from .plain_forms import has_fast_form


@has_fast_form(fast_dropout)
def dropout(hidden_states: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """Sets each element to zero with probability p in training, and multiplies the others by 1 / (1 - p).

    The factor keeps the expectation of every element the same, so nothing needs to be scaled in evaluation.

    Args:
        hidden_states: of any shape.
        probability: that an element is set to zero.
        training: false for evaluation, which returns the input itself.

    Returns:
        A tensor of the same shape.
    """
    if not training or probability == 0:
        return hidden_states
    kept = torch.rand(hidden_states.shape, device=hidden_states.device) >= probability
    return hidden_states * kept / (1 - probability)

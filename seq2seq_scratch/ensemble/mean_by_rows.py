"""The mean of the probabilities of an ensemble's models, computed with few passes over memory.

`log_mean_probability` in `modeling.py` has the plain form; skip this file on first reading.
"""

import math
from collections.abc import Sequence

import torch

from ..beam_continuations import SCORES_PER_CHUNK

# A mean below it may lack probabilities that fp32 rounds to 0, or to a number of few digits.
SMALLEST_MEAN = torch.finfo(torch.float32).tiny / torch.finfo(torch.float32).eps


def log_mean_by_rows(logits: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Computes `log_mean_probability` on CPU, for a few rows of all models at a time, which stay in the CPU's cache.

    The probabilities themselves are added, which takes one exponential and one sum for each model, and one logarithm.

    Args:
        logits: those of each model, K times (..., V).

    Returns:
        The logarithm of the mean, (..., V) in fp32. None where the plain form has to compute it: on GPUs, if gradients
        are asked for, and if fp32 would lose a probability.
    """
    first = logits[0]
    if first.device.type != "cpu" or any(each.requires_grad for each in logits):
        return None
    log_mean = torch.empty(first.shape, dtype=torch.float32)
    rows = max(1, SCORES_PER_CHUNK // first.shape[-1])
    chunks = (tensor.flatten(0, -2).split(rows) for tensor in (log_mean, *logits))
    for total, *of_models in zip(*chunks, strict=True):
        torch.softmax(of_models[0].float(), dim=-1, out=total)
        for some in of_models[1:]:
            total += torch.softmax(some.float(), dim=-1)
        if not total.amin() > SMALLEST_MEAN:  # not (...), so that NaN is found too
            return None
        total.log_().sub_(math.log(len(logits)))
    return log_mean

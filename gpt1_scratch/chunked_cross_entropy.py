"""The fast form of the loss: softmax and cross-entropy for one chunk of rows at a time.

Skip this file on first reading. `token_loss.py` has the plain form, and a test holds both to the same loss and
gradients.

Dimensions: N rows of hidden states, D model width, V vocabulary.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

IGNORE_INDEX = -100

# Smallest probability of a token in the loss: one that underflows would make the loss infinite.
SMALLEST_LIKELIHOOD = torch.finfo(torch.float32).tiny


# Number of rows whose logits exist at the same time: enough for matrix products at full speed, more on accelerators.
LOGIT_CHUNK_SIZE = {"cpu": 1024}
ACCELERATOR_LOGIT_CHUNK_SIZE = 8192


class _LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of `hidden_states @ weight.T` over the rows that count, one chunk of rows at a time.

    All logits, their fp32 copy and their gradient would be the largest tensors of a training step. The gradient of a
    row's logits, softmax - target, depends on that row only. So forward computes it while the logits exist and
    multiplies it at once by the weights, which leaves D columns. Backward only scales the result.
    """

    @staticmethod
    def forward(ctx: Any, hidden_states, weight, targets, row_weights, dtype):
        counted = targets != IGNORE_INDEX
        if row_weights is not None:
            counted = counted * row_weights
        # In a compiled graph shapes must not depend on the labels, so rows without a target are multiplied by zero
        # instead of left out.
        compiling = torch.compiler.is_compiling()
        rows = torch.arange(targets.shape[0], device=targets.device) if compiling else counted.nonzero()[:, 0]
        rows_per_chunk = LOGIT_CHUNK_SIZE.get(hidden_states.device.type, ACCELERATOR_LOGIT_CHUNK_SIZE)
        weight_cast = weight.to(dtype)
        needs_gradient = any(ctx.needs_input_grad)
        if needs_gradient:
            hidden_gradient = torch.zeros_like(hidden_states)
            # The sum over chunks is in fp32: in low precision, what later chunks add would be rounded away.
            weight_gradient = torch.zeros_like(weight, dtype=torch.float32)
        loss = torch.zeros((), dtype=torch.float32, device=hidden_states.device)
        for chunk in rows.split(rows_per_chunk):
            states = hidden_states[chunk].to(dtype)
            weighted = counted[chunk, None]
            target = targets[chunk].masked_fill(targets[chunk] == IGNORE_INDEX, 0)
            row = torch.arange(target.shape[0], device=target.device)
            # The softmax is in the logits' own precision: rounding a probability changes its logarithm by less than
            # rounding the logits did. Only the exponents of float16 are too few.
            logits = states @ weight_cast.T
            probabilities = torch.softmax(logits, dim=1, dtype=torch.promote_types(dtype, torch.bfloat16))
            # gather, because an index would take a target of -1 for the last token of the vocabulary.
            likelihood = probabilities.gather(1, target[:, None])[:, 0].float()
            loss = loss - (likelihood.clamp(min=SMALLEST_LIKELIHOOD).log() * counted[chunk]).sum()
            if needs_gradient:
                probabilities[row, target] -= 1
                logits_gradient = probabilities.to(dtype)
                hidden_gradient[chunk] = (logits_gradient @ weight_cast * weighted).to(hidden_gradient.dtype)
                weight_gradient += logits_gradient.T @ (states * weighted).to(dtype)
        if needs_gradient:
            ctx.save_for_backward(hidden_gradient, weight_gradient)
            ctx.weight_dtype = weight.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient):
        hidden_gradient, weight_gradient = ctx.saved_tensors
        # Not in place: a second backward through a retained graph must read the unscaled gradients.
        weight_gradient = (weight_gradient * loss_gradient).to(ctx.weight_dtype)
        return hidden_gradient * loss_gradient, weight_gradient, None, None, None


def fast_linear_cross_entropy(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    row_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Computes `linear_cross_entropy` without ever holding all logits; a row of weight 0 costs nothing."""
    device_type = hidden_states.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden_states.dtype
    with torch.autocast(device_type, enabled=False):
        return _LinearCrossEntropy.apply(hidden_states, weight, targets, row_weights, dtype)

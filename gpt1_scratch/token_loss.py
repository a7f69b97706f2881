"""The loss of predicting tokens, without ever holding all logits.

Dimensions: B batch, T positions, D hidden size, V vocabulary, N rows of hidden states.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def next_tokens(labels: torch.LongTensor) -> torch.LongTensor:
    """(B, T) labels to what each position predicts: the label after it, and `-100` at the end."""
    return nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)


def divide_by_items(
    loss: torch.Tensor, counted: torch.BoolTensor, num_items_in_batch: torch.Tensor | int | None
) -> torch.Tensor:
    """A summed loss divided by the number of items in the whole update; left out, by that of the items counted."""
    if num_items_in_batch is None:
        num_items_in_batch = counted.sum().clamp(min=1)
    elif isinstance(num_items_in_batch, torch.Tensor):
        num_items_in_batch = num_items_in_batch.to(loss.device)
    return loss / num_items_in_batch


def refuse_loss_from_elsewhere(num_items_in_batch: torch.Tensor | int | None, harm: str) -> None:
    """Raises ValueError where the library's `Trainer` keeps the labels back to compute another loss from the logits.

    Args:
        num_items_in_batch: what the Trainer gives with or without labels; nobody else gives it without.
        harm: what would be wrong with that loss.
    """
    if num_items_in_batch is not None:
        raise ValueError(
            f"num_items_in_batch is {num_items_in_batch}, but there are no labels. With the Trainer's "
            f"label_smoothing_factor {harm}: set it to 0. For a compute_loss_func of your own set "
            "model.accepts_loss_kwargs to False."
        )


def next_token_loss(
    hidden_states: torch.Tensor,
    lm_head: nn.Module,
    labels: torch.Tensor | None,
    num_items_in_batch: torch.Tensor | int | None = None,
    shift_labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of every next token (equation 1 of the paper), without ever holding all logits.

    Args:
        hidden_states: (B, T, D) the last block's states.
        lm_head: from D to V. If it is an adapter's layer, a quantised one, or one whose weight is loaded as it is
            called, its logits are held after all.
        labels: (B, T) the tokens themselves, which are shifted here: the state at position t predicts the label at
            t + 1. Labels of `-100` do not count and cost nothing.
        num_items_in_batch: the number of labels that count in the whole update. The sum is divided by it, so that
            gradients over several accumulated batches and several processes add up to one large batch's. Left out,
            the loss is the mean over the labels that count.
        shift_labels: (B, T) what each position is to predict, in place of `labels`: shifted already by one who splits
            sequences between devices, none of which sees the token that follows its last one.

    Returns:
        The loss, a scalar in fp32.
    """
    targets = next_tokens(labels) if shift_labels is None else shift_labels
    weight_is_plain = type(lm_head) is nn.Linear and not (
        lm_head.weight.is_meta or is_traceable_wrapper_subclass(lm_head.weight)
    )
    if weight_is_plain:
        loss = linear_cross_entropy(hidden_states.flatten(0, 1), lm_head.weight, targets.flatten())
    else:
        counted = targets != IGNORE_INDEX
        logits = lm_head(hidden_states[counted]).float()
        loss = nn.functional.cross_entropy(logits, targets[counted], reduction="sum")
    return divide_by_items(loss, targets != IGNORE_INDEX, num_items_in_batch)


IGNORE_INDEX = -100


# A token's probability counts as at least this much in the loss, lest one that underflows make it infinite.
SMALLEST_LIKELIHOOD = torch.finfo(torch.float32).tiny


# Rows of logits alive at once in the loss: enough for matrix products at full speed, more of them on an accelerator.
LOGIT_ROWS_PER_CHUNK = {"cpu": 1024}


LOGIT_ROWS_PER_CHUNK_ON_ACCELERATORS = 8192


class _LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of `hidden_states @ weight.T` over the rows that count, some rows at a time.

    All logits, their fp32 copy and their gradient would be the largest tensors of a training step. Each row's
    gradient, softmax - target, needs that row alone, so it is formed here while the row's logits exist and contracted
    at once to D columns. Backward then only scales.
    """

    @staticmethod
    def forward(ctx: Any, hidden_states, weight, targets, row_weights, dtype):
        counted = targets != IGNORE_INDEX
        if row_weights is not None:
            counted = counted * row_weights
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
                weight_gradient += logits_gradient.T @ (states * weighted).to(dtype)
        if needs_gradient:
            ctx.save_for_backward(hidden_gradient, weight_gradient)
            ctx.weight_dtype = weight.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient):
        hidden_gradient, weight_gradient = ctx.saved_tensors
        # Not in place: a second backward through a retained graph would read what the first had scaled.
        weight_gradient = (weight_gradient * loss_gradient).to(ctx.weight_dtype)
        return hidden_gradient * loss_gradient, weight_gradient, None, None, None


def linear_cross_entropy(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    row_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of the softmax over `hidden_states @ weight.T`, summed, without ever holding all logits.

    Args:
        hidden_states: (N, D).
        weight: (V, D), the rows of the softmax.
        targets: (N,), with `-100` for rows that do not count and cost nothing.
        row_weights: (N,) factors on the rows' losses, 1 if left out; no gradient flows to them. A row of weight 0
            costs nothing either.

    Returns:
        The sum, a scalar in fp32. The logits are in autocast's precision where autocast is on.
    """
    device_type = hidden_states.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden_states.dtype
    with torch.autocast(device_type, enabled=False):
        return _LinearCrossEntropy.apply(hidden_states, weight, targets, row_weights, dtype)

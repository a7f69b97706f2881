"""The language models' losses in plain form: cross-entropy of every next token, or of masked tokens.

The packages do not import each other, so the translators' package has its own loss, with label smoothing; a test
compares the two.

Dimensions: B batch, T positions, D model width, V vocabulary, N rows of hidden states.
"""

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .chunked_cross_entropy import IGNORE_INDEX, fast_linear_cross_entropy
from .plain_forms import has_fast_form


def next_tokens(labels: torch.LongTensor) -> torch.LongTensor:
    """Shifts (B, T) labels to what each position predicts, (B, T): the next label, and `-100` at the end.

    labels     <start>  once  there  was
    targets       once  there    was  -100
    """
    return nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)


@has_fast_form(fast_linear_cross_entropy)
def linear_cross_entropy(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    row_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns -sum_i row_weight_i log softmax(h_i W^T)[target_i], the summed cross-entropy of N predictions.

    Args:
        hidden_states: (N, D).
        weight: (V, D), the matrix of the softmax.
        targets: (N,), with `-100` for rows that do not count.
        row_weights: (N,) factors on the rows' losses, by default 1; they get no gradient.

    Returns:
        The sum, a scalar in fp32. Under autocast, the logits are in autocast's precision.
    """
    logits = nn.functional.linear(hidden_states, weight).float()  # N D -> N V
    losses = nn.functional.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="none")  # N
    return losses.sum() if row_weights is None else (losses * row_weights).sum()


def next_token_loss(
    hidden_states: torch.Tensor,
    lm_head: nn.Module,
    labels: torch.Tensor | None,
    num_items_in_batch: torch.Tensor | int | None = None,
    shift_labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Computes the cross-entropy of every next token: equation 1 of the paper, negated and averaged.

    Args:
        hidden_states: (B, T, D), those of the last block.
        lm_head: the softmax layer, from D to V. The loss holds all logits if this is an adapter's layer, a quantised
            one, or one whose weight is loaded when it is called.
        labels: (B, T), the tokens themselves, which are shifted here: the state at position t predicts the label at
            t + 1. Labels of `-100` do not count and cost nothing.
        num_items_in_batch: the number of labels that count in the whole update. The summed loss is divided by it, so
            that gradients over several accumulated batches and several processes add up to those of one large batch.
            By default, the loss is the mean over the labels that count.
        shift_labels: (B, T), what each position predicts, in place of `labels`. Training that splits sequences between
            devices shifts the labels itself, because no device has the token after its last one.

    Returns:
        The loss, a scalar in fp32.
    """
    targets = next_tokens(labels) if shift_labels is None else shift_labels  # B T
    return target_loss(hidden_states, lm_head, targets, num_items_in_batch)


def target_loss(
    hidden_states: torch.Tensor,
    lm_head: nn.Module,
    targets: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Computes the cross-entropy of the target of every position, as `next_token_loss` without a shift.

    Args:
        hidden_states, lm_head, num_items_in_batch: as in `next_token_loss`.
        targets: (B, T), what each position predicts. Targets of `-100` do not count and cost nothing.

    Returns:
        The loss, a scalar in fp32.

    Raises:
        ValueError: the targets are not of the shape (B, T).
    """
    if targets.shape != hidden_states.shape[:2]:
        raise ValueError(
            f"The labels have the shape {tuple(targets.shape)}, but the tokens {tuple(hidden_states.shape[:2])}. Give "
            f"a label for each token, {IGNORE_INDEX} where it does not count."
        )
    if _has_plain_weight(lm_head):
        loss = linear_cross_entropy(hidden_states.flatten(0, 1), lm_head.weight, targets.flatten())
    else:
        counted = (targets != IGNORE_INDEX).nonzero(as_tuple=True)  # searched once, as an accelerator waits for it
        logits = lm_head(hidden_states[counted]).float()  # B T D -> N D -> N V
        loss = nn.functional.cross_entropy(logits, targets[counted], reduction="sum")
    return divide_by_items(loss, targets != IGNORE_INDEX, num_items_in_batch)


def _has_plain_weight(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear and not (
        layer.weight.is_meta or is_traceable_wrapper_subclass(layer.weight)  # offloaded, quantised
    )


def divide_by_items(
    loss: torch.Tensor, counted: torch.BoolTensor, num_items_in_batch: torch.Tensor | int | None
) -> torch.Tensor:
    """Divides a summed loss by the number of items in the whole update, by default the number of items counted.

    Args:
        loss: a scalar.
        counted: true for each item that counts, of any shape.
        num_items_in_batch: the number of items that count in the whole update.
    """
    if num_items_in_batch is None:
        num_items_in_batch = counted.sum().clamp(min=1)
    elif isinstance(num_items_in_batch, torch.Tensor):
        num_items_in_batch = num_items_in_batch.to(loss.device)
    return loss / num_items_in_batch


def refuse_external_loss(num_items_in_batch: torch.Tensor | int | None, consequence: str) -> None:
    """Raises a ValueError if the library's `Trainer` withholds the labels to compute its own loss from the logits.

    Args:
        num_items_in_batch: the Trainer passes this number with or without labels; no other caller passes it without.
        consequence: what would be wrong with the Trainer's loss.
    """
    if num_items_in_batch is not None:
        raise ValueError(
            f"num_items_in_batch is {num_items_in_batch}, but no labels are given. With the Trainer's "
            f"label_smoothing_factor {consequence}: set it to 0. To use your own compute_loss_func, set "
            "model.accepts_loss_kwargs to False."
        )

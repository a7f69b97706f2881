"""The translators' loss in plain form: cross-entropy of every target token, with label smoothing and R-Drop.

The packages do not import each other, so GPT-1's package has its own loss; a test compares the two.

Dimensions: B batch, T target length, N target tokens that count, V target vocabulary, D width of what the softmax
layer reads.
"""

import torch
from torch import nn

from .chunked_cross_entropy import fast_linear_cross_entropy
from .plain_forms import plain_forms_are_on
from .seq2seq_common import IGNORE_INDEX, has_plain_weight


def smoothed_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0, r_drop_weight: float = 0.0
) -> torch.Tensor:
    """Returns the summed cross-entropy of N predictions, with label smoothing and R-Drop.

    Label smoothing (Szegedy et al. 2015; Vaswani et al. 2017, section 5.4) replaces the target, all probability on the
    right token, by a distribution with `1 - label_smoothing` on the right token plus `label_smoothing / V` on every
    token of the vocabulary, the right one included. The model then learns no infinite logits.

    R-Drop (Liang et al. 2021, "R-Drop: Regularized Dropout for Neural Networks", https://arxiv.org/abs/2106.14448)
    predicts every token twice, with different dropout masks, and adds the symmetric divergence of the two predictions
    p and q: r_drop_weight / 2 (KL(p|q) + KL(q|p)). No prediction then depends on few units.

    Args:
        logits: (N, V). With R-Drop, the two predictions of a token are in adjacent rows.
        targets: (N,) token ids.
        label_smoothing: probability mass spread uniformly over the vocabulary, from 0 (off) to 1.
        r_drop_weight: alpha of R-Drop; 0 turns it off.

    Returns:
        The sum over the N tokens, a scalar in fp32.
    """
    log_probabilities = torch.log_softmax(logits.float(), dim=-1)
    of_right_token = log_probabilities.gather(1, targets[:, None])[:, 0]  # N V -> N
    of_all_tokens = log_probabilities.mean(dim=-1)  # N V -> N
    loss = -((1 - label_smoothing) * of_right_token + label_smoothing * of_all_tokens).sum()
    if r_drop_weight:
        log_p, log_q = log_probabilities[0::2], log_probabilities[1::2]  # N V -> N/2 V
        # KL(p|q) + KL(q|p) = sum p (log p - log q) + sum q (log q - log p)
        divergence = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum()
        loss = loss + r_drop_weight / 2 * divergence
    return loss


def target_token_loss(
    hidden_states: torch.Tensor,
    lm_head: nn.Module,
    labels: torch.Tensor,
    *,
    label_smoothing: float = 0.0,
    r_drop_weight: float = 0.0,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Computes the cross-entropy of every target token; the default form never holds all logits.

    Args:
        hidden_states: (B, T, D) what the softmax layer reads.
        lm_head: the softmax layer, from D to V, with or without a bias. The loss holds all logits if this is an
            adapter's layer, a quantised one, or one whose weight is loaded when it is called.
        labels: (B, T) target token ids. Positions with `-100` do not count and cost nothing.
        label_smoothing: see `smoothed_cross_entropy`; between 0 and 1.
        r_drop_weight: see `smoothed_cross_entropy`. Unless it is 0, the second half of the batch's rows must repeat
            the first.
        num_items_in_batch: the number of target tokens in the whole update. The summed loss is divided by it, so that
            gradients over several accumulated batches and several processes add up to those of one large batch. By
            default, the loss is the mean over the tokens that count.

    Returns:
        The loss, a scalar in fp32.

    Raises:
        ValueError: R-Drop on an odd number of rows, or a label outside the vocabulary.
    """
    if r_drop_weight and len(labels) % 2:
        raise ValueError(
            f"r_drop_weight is {r_drop_weight}, but the batch has {len(labels)} rows. R-Drop needs an even number, "
            "because the second half must repeat the first. Repeat the batch, or set r_drop_weight to 0."
        )
    # Places and not a mask, which would be searched at each use, and an accelerator is waited for in each search.
    counted = (labels != IGNORE_INDEX).nonzero(as_tuple=True)  # N rows and N columns
    hidden, targets = hidden_states[counted], labels[counted]  # B T D -> N D, B T -> N
    if r_drop_weight:
        # The two predictions of a token move to adjacent rows.
        hidden = hidden.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
        targets = targets[: targets.numel() // 2].repeat_interleave(2)
    if plain_forms_are_on() or not has_plain_weight(lm_head):
        loss = smoothed_cross_entropy(lm_head(hidden), targets, label_smoothing, r_drop_weight)
    else:
        loss = fast_linear_cross_entropy(hidden, lm_head.weight, lm_head.bias, targets, label_smoothing, r_drop_weight)
    if num_items_in_batch is None:
        num_items_in_batch = max(targets.numel(), 1)
    return loss / num_items_in_batch

"""The loss of predicting target tokens, without ever holding all logits.

Dimensions: B batch, T target length, N target tokens that count, V target vocabulary, D model size.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from .seq2seq_common import IGNORE_INDEX, has_plain_weight, product_dtype

# Rows of logits alive at once in the loss: enough to keep the matrix products at full speed, few enough that the
# passes over them partly run in a CPU's cache.
LOGIT_CHUNK_SIZE = 512


def _add_disagreement(log_probabilities: torch.Tensor, probabilities: torch.Tensor, weight: float) -> torch.Tensor:
    """R-Drop's term (see `target_token_loss`), summed; adds its gradient for the logits to `probabilities`.

    With p and q the two predictions of a token, r = log p - log q and KL(p|q) = sum(p r), the term is
    weight / 2 (KL(p|q) + KL(q|p)). Its gradient with respect to the logits of p is
    weight / 2 (p (r - KL(p|q)) + p - q), and with respect to those of q the same with p and q exchanged.

    Args:
        log_probabilities: (2 n, V), the two predictions of a token in adjacent rows. Overwritten: every pass over so
            many numbers counts, and so do the pages of a new tensor.
        probabilities: (2 n, V) likewise.
    """
    (p, q), (log_p, log_q) = (pairs.unflatten(0, (-1, 2)).unbind(1) for pairs in (probabilities, log_probabilities))
    log_ratio = log_p.sub_(log_q)
    difference = torch.sub(p, q, out=log_q)
    divergence, negative_reverse = (torch.linalg.vecdot(side, log_ratio)[:, None] for side in (p, q))
    for side, mean, factor in ((p, divergence, weight / 2), (q, negative_reverse - divergence, -weight / 2)):
        side.addcmul_(side, log_ratio.sub_(mean), value=factor).add_(difference, alpha=factor)
    return weight / 2 * (divergence - negative_reverse).sum()


class _LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of `hidden @ weight.T + bias`, a block of rows at a time.

    The usual way keeps all logits, their fp32 copy and their gradient: three N x V tensors, the largest of a training
    step. Each row's gradient with respect to its logits, softmax - target, needs that row alone, so it is formed here
    while the row's logits exist and contracted at once to D columns. Backward then only scales.
    """

    @staticmethod
    def forward(ctx: Any, hidden, weight, bias, targets, label_smoothing, r_drop_weight, dtype):
        needs_gradient = any(ctx.needs_input_grad)
        hidden_cast, weight_cast = hidden.to(dtype), weight.to(dtype)
        hidden_gradient = torch.empty_like(hidden_cast) if needs_gradient else None
        # Summed over chunks in fp32: low precision would lose the later chunks' share.
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if needs_gradient else None
        bias_gradient = torch.zeros_like(bias, dtype=torch.float32) if needs_gradient and bias is not None else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        vocabulary = weight.shape[0]
        bias_cast = None if bias is None else bias.to(dtype)
        # Fresh tensors of this size come from the system page by page, on CPUs at more than the cost of the arithmetic
        # in them; so every chunk works in the same ones.
        rows_at_once = min(LOGIT_CHUNK_SIZE, hidden.shape[0])
        logits_buffer = hidden_cast.new_empty(rows_at_once, vocabulary)
        float_buffer = torch.empty_like(logits_buffer, dtype=torch.float32)
        pairs_buffer = torch.empty_like(float_buffer) if r_drop_weight else None
        weight_buffer = torch.empty_like(weight_cast) if needs_gradient else None
        for start in range(0, hidden.shape[0], LOGIT_CHUNK_SIZE):
            rows = slice(start, start + LOGIT_CHUNK_SIZE)
            target_column = targets[rows, None]
            logits, log_probabilities = (buffer[: target_column.shape[0]] for buffer in (logits_buffer, float_buffer))
            if bias is None:
                torch.mm(hidden_cast[rows], weight_cast.T, out=logits)
            else:
                torch.addmm(bias_cast, hidden_cast[rows], weight_cast.T, out=logits)
            torch.log_softmax(log_probabilities.copy_(logits), dim=-1, out=log_probabilities)
            loss -= (1 - label_smoothing) * log_probabilities.gather(1, target_column).sum()
            if label_smoothing:
                loss -= label_smoothing / vocabulary * log_probabilities.sum()
            if r_drop_weight:
                probabilities = torch.exp(log_probabilities, out=pairs_buffer[: target_column.shape[0]])
                loss += _add_disagreement(log_probabilities, probabilities, r_drop_weight)
            if needs_gradient:
                # d loss / d logits = softmax - (1 - epsilon) * one_hot - epsilon / V
                logits_gradient = probabilities if r_drop_weight else log_probabilities.exp_()
                if label_smoothing:
                    logits_gradient -= label_smoothing / vocabulary
                logits_gradient.scatter_add_(
                    1, target_column, torch.full_like(target_column, label_smoothing - 1, dtype=torch.float32)
                )
                if bias_gradient is not None:
                    bias_gradient += logits_gradient.sum(dim=0)
                logits_gradient = logits.copy_(logits_gradient)
                torch.mm(logits_gradient, weight_cast, out=hidden_gradient[rows])
                weight_gradient += torch.mm(logits_gradient.T, hidden_cast[rows], out=weight_buffer)
        if needs_gradient:
            ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
            ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient):
        gradients = [
            None if gradient is None else (gradient * loss_gradient).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *gradients, None, None, None, None


def target_token_loss(
    hidden_states: torch.Tensor,
    lm_head: nn.Linear,
    labels: torch.Tensor,
    *,
    label_smoothing: float = 0.0,
    r_drop_weight: float = 0.0,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Label-smoothed cross-entropy over target tokens, without ever holding all logits.

    Label smoothing is the one of section 5.4 of "Attention Is All You Need" (from Szegedy et al. 2015): the target
    distribution is `1 - label_smoothing` on the right token plus `label_smoothing / V` on every token of the
    vocabulary, the right one included.

    Args:
        hidden_states: (B, T, D) what the output projection reads.
        lm_head: D to V, with or without a bias.
        labels: (B, T) target token ids; positions that hold `-100` do not count and cost nothing.
        label_smoothing: between 0 and 1.
        r_drop_weight: alpha of Liang et al. 2021, "R-Drop: Regularized Dropout for Neural Networks"
            (https://arxiv.org/abs/2106.14448). Unless it is 0, the second half of the rows must repeat the first.
            Dropout gives every token two predictions p and q, and the loss of the pair grows by
            r_drop_weight / 2 (KL(p|q) + KL(q|p)), so that no prediction comes to depend on few units.
        num_items_in_batch: the number of target tokens in the whole update. The sum is divided by it, so that
            gradients over several accumulated batches and several processes add up to one large batch's. Left out,
            the loss is the mean over the tokens that count.

    Returns:
        The loss, a scalar in fp32.

    Raises:
        ValueError: R-Drop on an odd number of rows.
    """
    if r_drop_weight and len(labels) % 2:
        raise ValueError(
            f"r_drop_weight is {r_drop_weight}, but the batch has {len(labels)} rows: the second half must repeat the "
            "first."
        )
    counted = labels != IGNORE_INDEX
    hidden, targets = hidden_states[counted], labels[counted]  # (N, D), (N,)
    if r_drop_weight:
        # The two predictions of a token to adjacent rows, so that any even number of rows holds pairs.
        hidden = hidden.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
        targets = targets[: targets.numel() // 2].repeat_interleave(2)
    if num_items_in_batch is None:
        num_items_in_batch = max(targets.numel(), 1)
    if not has_plain_weight(lm_head):
        # The logits of the layer itself are needed.
        logits = lm_head(hidden).float()
        loss = nn.functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=label_smoothing)
        if r_drop_weight:
            log_p, log_q = logits.log_softmax(dim=-1).unflatten(0, (-1, 2)).unbind(1)
            loss += r_drop_weight / 2 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum()
        return loss / num_items_in_batch
    dtype = product_dtype(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        loss = _LinearCrossEntropy.apply(
            hidden, lm_head.weight, lm_head.bias, targets, label_smoothing, r_drop_weight, dtype
        )
    return loss / num_items_in_batch

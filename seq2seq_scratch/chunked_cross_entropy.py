"""The fast form of the loss: softmax and cross-entropy for one chunk of rows at a time.

Skip this file on first reading. `token_loss.py` has the plain form, and tests hold both to the same loss and
gradients.

Dimensions: N target tokens that count, V target vocabulary, D width of what the softmax layer reads.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .seq2seq_common import describe_wrong_ids, product_dtype

# Number of rows whose logits exist at the same time: enough to keep the matrix products at full speed, few enough that
# the passes over them partly run in a CPU's cache. Even, so that a chunk holds both rows of every pair of R-Drop.
LOGIT_CHUNK_SIZE = 512


def _add_divergence(log_probabilities: torch.Tensor, probabilities: torch.Tensor, weight: float) -> torch.Tensor:
    """Returns R-Drop's term (see `smoothed_cross_entropy`) and adds its gradient for the logits to `probabilities`.

    With p and q the two predictions of a token, r = log p - log q and KL(p|q) = sum(p r), the term is
    weight / 2 (KL(p|q) + KL(q|p)). Its gradient with respect to the logits of p is
    weight / 2 (p (r - KL(p|q)) + p - q). The gradient with respect to the logits of q is the same with p and q
    exchanged.

    Args:
        log_probabilities: (2 n, V), the two predictions of a token in adjacent rows. They are overwritten, because
            every pass over this many numbers costs time, and so do the pages of a new tensor.
        probabilities: (2 n, V) likewise.
        weight: the factor on the divergences.

    Returns:
        The sum over the n pairs, a scalar.
    """
    (p, q), (log_p, log_q) = (pairs.unflatten(0, (-1, 2)).unbind(1) for pairs in (probabilities, log_probabilities))
    log_ratio = log_p.sub_(log_q)
    difference = torch.sub(p, q, out=log_q)
    divergence, negative_reverse = (torch.linalg.vecdot(side, log_ratio)[:, None] for side in (p, q))
    for side, mean, factor in ((p, divergence, weight / 2), (q, negative_reverse - divergence, -weight / 2)):
        side.addcmul_(side, log_ratio.sub_(mean), value=factor).add_(difference, alpha=factor)
    return weight / 2 * (divergence - negative_reverse).sum()


class _LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of `hidden @ weight.T + bias`, one chunk of rows at a time.

    All logits, their fp32 copy and their gradient would be three N x V tensors, the largest of a training step. The
    gradient of a row's logits, softmax - target, depends on that row only. So forward computes it while the logits
    exist and multiplies it at once by the weights, which leaves D columns. Backward only scales the result.
    """

    @staticmethod
    def forward(ctx: Any, hidden, weight, bias, targets, label_smoothing, r_drop_weight, dtype):
        needs_gradient = any(ctx.needs_input_grad)
        hidden_cast, weight_cast = hidden.to(dtype), weight.to(dtype)
        hidden_gradient = torch.empty_like(hidden_cast) if needs_gradient else None
        # The sum over chunks is in fp32: in low precision, what later chunks add would be rounded away.
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if needs_gradient else None
        bias_gradient = torch.zeros_like(bias, dtype=torch.float32) if needs_gradient and bias is not None else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        vocabulary = weight.shape[0]
        bias_cast = None if bias is None else bias.to(dtype)
        # All chunks share these buffers: the system hands out new tensors of this size page by page, which on CPU
        # takes longer than the arithmetic.
        chunk_size = min(LOGIT_CHUNK_SIZE, hidden.shape[0])
        logits_buffer = hidden_cast.new_empty(chunk_size, vocabulary)
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
                loss += _add_divergence(log_probabilities, probabilities, r_drop_weight)
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


# The loop would be compiled again for every number of chunks.
@torch.compiler.disable
def fast_linear_cross_entropy(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    label_smoothing: float,
    r_drop_weight: float,
) -> torch.Tensor:
    """Computes `smoothed_cross_entropy` of `hidden_states @ weight.T + bias` without ever holding all logits.

    Args:
        hidden_states: (N, D).
        weight: (V, D).
        bias: (V,) or None.
        targets: (N,) token ids.
        label_smoothing, r_drop_weight: see `smoothed_cross_entropy`.

    Returns:
        The sum over the N tokens, a scalar in fp32.

    Raises:
        ValueError: a target is outside the vocabulary. An accelerator reports it in its own way.
    """
    dtype = product_dtype(hidden_states)
    try:
        with torch.autocast(hidden_states.device.type, enabled=False):
            return _LinearCrossEntropy.apply(
                hidden_states, weight, bias, targets, label_smoothing, r_drop_weight, dtype
            )
    except RuntimeError as error:
        vocabulary = weight.shape[0]
        if targets.device.type == "cpu" and ((targets < 0) | (targets >= vocabulary)).any():
            raise ValueError(describe_wrong_ids("Labels", targets, "softmax layer", vocabulary)) from error
        raise

"""The best continuations of the hypotheses of a beam search, found with few passes over memory.

`torch.topk` over all log-probabilities finds the same; skip this file on first reading.
"""

import torch

# Log-probabilities that a search on CPU computes at a time, also those of an ensemble: 1 MB in fp32.
SCORES_PER_CHUNK = 2**18


def top_k_by_blocks(scores: torch.Tensor, k: int, block: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes `torch.topk(scores, k)` faster for long rows.

    The k best scores are in the k blocks with the highest maxima, and one vectorised pass finds the maxima. The scores
    after the last whole block are candidates too.

    Args:
        scores: (B, N).
        k: number of scores to find.
        block: number of scores in a block.

    Returns:
        The best scores of each row, (B, k), the best first, and their indices in the row, (B, k).
    """
    in_blocks = scores.shape[1] // block * block
    if in_blocks < k * block:
        return torch.topk(scores, k)
    blocks = scores[:, :in_blocks].unflatten(1, (-1, block))  # (B, N // block, block)
    chosen = blocks.amax(dim=2).topk(k, sorted=False).indices  # (B, k)
    candidates = blocks.gather(1, chosen[:, :, None].expand(-1, -1, block)).flatten(1)  # (B, k * block)
    best, places = torch.cat([candidates, scores[:, in_blocks:]], dim=1).topk(k)
    block_starts = chosen.gather(1, (places // block).clamp(max=k - 1)) * block
    after_blocks = in_blocks + places - k * block
    return best, torch.where(places < k * block, block_starts + places % block, after_blocks)


def best_continuations(
    logits: torch.Tensor, running_scores: torch.Tensor, candidates: int, *, are_log_probabilities: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Finds the tokens that continue the hypotheses of each sentence best, for a few sentences at a time.

    The log-probabilities of all sentences would be the largest tensors of a search, and each pass over them would read
    them from memory. Those of a few sentences stay in a CPU's cache.

    Args:
        logits: (B, n, V), of the n hypotheses of each sentence.
        running_scores: (B, n), the log-probabilities of the hypotheses.
        candidates: number of continuations to find.
        are_log_probabilities: whether the logits are log-probabilities, whose softmax would change nothing.

    Returns:
        The log-probabilities of the best continued hypotheses, (B, candidates), the best first, and their places among
        the n * V continuations, (B, candidates).
    """
    sentences = max(1, SCORES_PER_CHUNK // logits[0].numel()) if logits.device.type == "cpu" else len(logits)
    best = []
    for some, scores in zip(logits.split(sentences), running_scores.split(sentences), strict=True):
        scores = scores[:, :, None]
        continued = some + scores if are_log_probabilities else torch.log_softmax(some.float(), dim=-1).add_(scores)
        best.append(top_k_by_blocks(continued.flatten(1), candidates))
    totals, places = (torch.cat(parts) for parts in zip(*best, strict=True))
    return totals, places

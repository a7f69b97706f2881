"""Evaluation over several processes: the same figures for one process and for many."""

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from papers_to_gpt.engine.batching import Batch
from papers_to_gpt.engine.training import TokenCounts, count_tokens

Item = TypeVar("Item")


def evaluate_loss(
    accelerator: Accelerator,
    model: PreTrainedModel,
    batches: Iterable[Batch],
    *,
    count_tokens: Callable[[Batch], TokenCounts] = count_tokens,
    loss_arguments: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Loss in nats for each target token, without label smoothing, and its perplexity.

    Args:
        model: in evaluation mode.
        batches: this process's share of the data; together the processes hold every example once.
        count_tokens: for losses that do not predict every label.
        loss_arguments: passed to the model's forward.
    """
    # Sums, not means of batches: batches hold different numbers of tokens.
    sums = torch.zeros(2, dtype=torch.float32, device=accelerator.device)
    for batch in batches:
        sums[1] += count_tokens(batch).target_tokens
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        sums[0] += model(**batch, num_items_in_batch=1, **(loss_arguments or {})).loss
    loss, targets = accelerator.reduce(sums, "sum").tolist()
    mean = loss / targets
    return {"loss": mean, "perplexity": math.exp(min(mean, 700.0))}


def map_across_processes(
    accelerator: Accelerator, function: Callable[[list[Item]], list[Any]], items: list[Item]
) -> list[Any]:
    """Applies a function of lists to every process's share and gives all results, in the items' order, to all."""
    index, processes = accelerator.process_index, accelerator.num_processes
    if processes == 1:
        return function(items)
    shares = gather_object([function(items[index::processes])])
    results: list[Any] = [None] * len(items)
    for process, share in enumerate(shares):
        results[process::processes] = share
    return results

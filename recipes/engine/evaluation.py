"""Evaluation on several processes, with the same results as on one."""

import logging
import math
import random
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from papers_to_gpt.engine.batching import Batch
from papers_to_gpt.engine.device_copies import send_batch
from papers_to_gpt.engine.log_window import TokenCounts, count_tokens
from papers_to_gpt.engine.process_watch import note_progress
from papers_to_gpt.engine.stopping import StopRequested, interruptible
from papers_to_gpt.settings.training import check_metric

Item = TypeVar("Item")


def evaluate_loss(
    accelerator: Accelerator,
    model: PreTrainedModel,
    batches: Iterable[Batch],
    *,
    count_tokens: Callable[[Batch], TokenCounts] = count_tokens,
    loss_arguments: dict[str, Any] | None = None,
    count_correct: Callable[[Batch, Any], torch.Tensor] | None = None,
) -> dict[str, float]:
    """Computes the loss in nats per target token, without label smoothing, and its perplexity.

    Args:
        accelerator: every process must call this function.
        model: the model, in evaluation mode.
        batches: this process's share of the data; all processes together must hold every example once.
        count_tokens: function that counts a batch. Override it for a loss that does not predict every label.
        loss_arguments: further arguments of the model's forward.
        count_correct: function from a batch and the model's outputs to the number of target tokens that are predicted
            right, (). Default: they are not counted.

    Returns:
        `loss` and `perplexity`, and `accuracy` with `count_correct`, the same on every process.

    Raises:
        StopRequested: on every process, if one of them was asked to stop.
    """
    # The sums are divided once at the end, because batches have different numbers of tokens. The last one counts the
    # processes that were asked to stop.
    dtype = torch.float64 if accelerator.device.type in ("cpu", "cuda") else torch.float32
    sums = torch.zeros(4, dtype=dtype, device=accelerator.device)
    note_progress("in an evaluation")
    try:
        with interruptible():
            for batch in batches:
                targets = count_tokens(batch).target_tokens
                batch = send_batch(batch, accelerator.device)
                outputs = model(**batch, num_items_in_batch=1, **(loss_arguments or {}))
                sums[0] += outputs.loss
                sums[1] += targets
                if count_correct is not None:
                    sums[2] += count_correct(batch, outputs)
    except StopRequested:
        sums[3] = 1
    note_progress("in an evaluation")
    loss, targets, correct, stopped = accelerator.reduce(sums, "sum").tolist()
    if stopped:
        raise StopRequested
    mean = loss / targets
    scores = {"loss": mean, "perplexity": math.exp(min(mean, 700.0))}
    return scores if count_correct is None else scores | {"accuracy": correct / targets}


def map_across_processes(
    accelerator: Accelerator, function: Callable[[list[Item]], list[Any]], items: list[Item]
) -> list[Any]:
    """Applies a function to each process's share of a list and returns all results on every process.

    Args:
        accelerator: every process must call this function with the same items.
        function: function from a list of items to the list of their results.
        items: all items.

    Returns:
        One result for each item, in the order of the items.

    Raises:
        StopRequested: on every process, if one of them was asked to stop.
    """
    index, processes = accelerator.process_index, accelerator.num_processes
    share = None
    note_progress("in an evaluation")
    try:
        with interruptible():
            share = function(items[index::processes])
    except StopRequested:
        if processes == 1:
            raise
    if processes == 1:
        return share
    note_progress("in an evaluation")
    shares = gather_object([share])
    if None in shares:
        raise StopRequested
    results: list[Any] = [None] * len(items)
    for process, share in enumerate(shares):
        results[process::processes] = share
    return results


def is_any_true(accelerator: Accelerator, condition: bool) -> bool:
    """Returns whether a condition is true on any process; every process must call this function."""
    return bool(accelerator.reduce(torch.tensor(int(condition), device=accelerator.device), "sum"))


def _kept_generators(device: torch.device) -> AbstractContextManager[None]:
    """Restores the generators of the CPU and of a device at the end of a block.

    Without the name of a device, torch would keep those of all GPUs of the machine, and set up each GPU for that.
    """
    if device.type == "cpu":
        return torch.random.fork_rng([])
    return torch.random.fork_rng([device], device_type=device.type)


def rehearse_evaluation(
    model: PreTrainedModel, evaluate: Callable[[PreTrainedModel], dict[str, Any]], metric: str | None = None
) -> None:
    """Runs a small evaluation before training, so that whatever is wrong with it ends the run before work is lost.

    It leaves the state of the random generators as it was, and logs nothing: scores of a few examples mean nothing.

    Args:
        model: the model that will be trained. Every process must call this function.
        evaluate: the evaluation of a few examples, which must write nothing.
        metric: the score that selects the best checkpoint; None is not checked.

    Raises:
        ValueError: if the evaluation does not report `metric`, or itself raises one.
    """
    was_training, level = model.training, logging.root.manager.disable
    python_state, numpy_state = random.getstate(), np.random.get_state()
    model.eval()
    logging.disable(logging.WARNING)
    try:
        with torch.no_grad(), _kept_generators(model.device), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores = evaluate(model)
    finally:
        logging.disable(level)
        model.train(was_training)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
    if metric is not None:
        check_metric(metric, [name for name, value in scores.items() if isinstance(value, int | float)])

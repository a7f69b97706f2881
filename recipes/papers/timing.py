"""Timing of small pieces of work in this process."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

REPETITIONS = 5
# A measurement shorter than this is repeated, so that the clock and the machine's noise matter less.
SHORTEST_SECONDS = 0.02


def median_seconds(work: Callable[[], object], repetitions: int = REPETITIONS) -> float:
    """Returns the median time of one call of `work` in seconds, after a first call that is not counted.

    Args:
        work: the function to time.
        repetitions: number of measurements. Each calls `work` so often that it takes a fiftieth of a second.
    """
    started = time.perf_counter()
    work()
    once = time.perf_counter() - started
    calls = max(1, int(SHORTEST_SECONDS / max(once, 1e-6)))
    measured = []
    for _ in range(repetitions):
        started = time.perf_counter()
        for _ in range(calls):
            work()
        measured.append((time.perf_counter() - started) / calls)
    return statistics.median(measured)


def layer_seconds(layer: nn.Module, states: torch.Tensor) -> float:
    """Returns the median time of a forward and a backward pass of a layer over states, (B, T, D), in seconds."""
    states = states.requires_grad_()

    def step() -> None:
        states.grad = None
        layer.zero_grad()
        layer(states)[0].sum().backward()

    return median_seconds(step)

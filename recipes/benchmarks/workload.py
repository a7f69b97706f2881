"""What every contender of `benchmark.py` is given to do, and the stopwatch that measures it doing so."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from papers_to_gpt.settings.benchmarking import Workload


def busy_seconds() -> float | None:
    """CPU seconds that the machine has spent on anybody since it started; None where the system does not say."""
    path = Path("/proc/stat")
    if not path.is_file():
        return None
    # In hundredths of a second: user, nice, system, idle, waiting, interrupts (two kinds), stolen by other machines.
    ticks = [int(value) for value in path.read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / 100


def peak_memory_gb() -> float:
    """The most memory that this process has held so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        # `ru_maxrss` would count the parent's memory, which a process holds until it turns to another program.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e9
    import resource  # not everywhere

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


class Stopwatch:
    """Counts and clocks what happens between `start` and `stop`; a second `stop` changes nothing.

    Attributes:
        items: what rates are about: target tokens, generated tokens or sentences.
        tokens, slots: tokens of source and target, without and with padding.
    """

    def __init__(self):
        self.items = self.tokens = self.slots = 0
        self.clocked: dict[str, float | None] = {}

    def start(self) -> None:
        self._started = time.perf_counter(), time.process_time(), busy_seconds()

    def stop(self) -> None:
        if self.clocked:
            return
        wall, own = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        others = None
        if self._started[2] is not None:
            others = max(0.0, busy_seconds() - self._started[2] - own) / wall
        self.clocked = {"seconds": wall, "cpu_seconds": own, "cores_busy_with_others": others}
        self.clocked["peak_memory_gb"] = peak_memory_gb()

    def over(self, batches: Iterable[Any], work: Workload, count: Callable[[Any], tuple[int, int, int]]) -> Iterator:
        """Hands on the batches of all updates, and clocks those after the warm-up.

        Args:
            batches: at least as many as there are updates.
            work: says how many those are.
            count: items, tokens without padding and slots of a batch.
        """
        batches = iter(batches)
        for update in range(work.warm_up_updates + work.updates):
            if update == work.warm_up_updates:
                self.start()
            batch = next(batches)
            if update >= work.warm_up_updates:
                self.count(*count(batch))
            yield batch
        self.stop()

    def count(self, items: int, tokens: int = 0, slots: int = 0) -> None:
        self.items, self.tokens, self.slots = self.items + items, self.tokens + tokens, self.slots + slots

    def result(self, model: nn.Module) -> dict[str, Any]:
        """Everything that was counted and clocked, and the size of the model that it was done with."""
        parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        padding = {"padding_percent": 100 * (1 - self.tokens / self.slots)} if self.slots else {}
        return {"items": self.items, **self.clocked, "millions_of_parameters": parameters / 1e6, **padding}


def count_padded(input_ids: torch.Tensor, labels: torch.Tensor, padding: int, ignored: int) -> tuple[int, int, int]:
    """Target tokens, tokens without padding and slots of a batch of pairs."""
    targets = int((labels != ignored).sum())
    return targets, targets + int((input_ids != padding).sum()), input_ids.numel() + labels.numel()

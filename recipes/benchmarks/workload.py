"""The stopwatch of `benchmark.py`: time, CPU time, memory and the load of other processes during a measurement."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from papers_to_gpt.settings.benchmarking import Workload


def busy_seconds() -> float | None:
    """Returns the CPU seconds that all processes have used since the machine started; None where it cannot be read."""
    path = Path("/proc/stat")
    if not path.is_file():
        return None
    # In hundredths of a second: user, nice, system, idle, waiting, interrupts (two kinds), stolen by other machines.
    ticks = [int(value) for value in path.read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / 100


def peak_memory_gb(device: str = "cpu") -> float:
    """Returns the largest amount of memory that this process has held so far, in GB; on a GPU, that of its tensors."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status")
    if status.is_file():
        # `ru_maxrss` would include the memory of the parent, which a new process shares until it executes its program.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e9
    import resource  # does not exist on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def wait_for(device: str) -> None:
    """Waits until a GPU has computed all that was queued."""
    if device != "cpu":
        torch.cuda.synchronize()


class Stopwatch:
    """Counts and clocks what happens between `start` and `stop`; a second `stop` has no effect.

    Args:
        between_updates: is called after every update that `over` clocks, while the clock stands still.
        device: where the work is done. The clock waits for a GPU, whose memory is measured in place of the process's.

    Attributes:
        items: number of units that the rates refer to: target tokens, generated tokens, examples or sentences.
        tokens, slots: number of tokens of source and target, without and with padding.
        clocked: the measured seconds and memory; empty before `stop`.
    """

    def __init__(self, between_updates: Callable[[], Any] | None = None, device: str = "cpu"):
        self.device = device
        self.items = self.tokens = self.slots = 0
        self.clocked: dict[str, float | None] = {}
        self.between_updates = between_updates

    def start(self) -> None:
        self._passed = [0.0, 0.0, 0.0]
        self._resume()

    def _resume(self) -> None:
        wait_for(self.device)
        self._since = time.perf_counter(), time.process_time(), busy_seconds()

    def _pause(self) -> None:
        wait_for(self.device)
        now = time.perf_counter(), time.process_time(), busy_seconds()
        self._passed = [
            passed + (0.0 if end is None else end - begin)
            for passed, begin, end in zip(self._passed, self._since, now, strict=True)
        ]

    def stop(self) -> None:
        if self.clocked:
            return
        self._pause()
        wall, own, busy = self._passed
        others = None if self._since[2] is None else max(0.0, busy - own) / wall
        self.clocked = {"seconds": wall, "cpu_seconds": own, "cores_busy_with_others": others}
        self.clocked["peak_memory_gb"] = peak_memory_gb(self.device)

    def over(self, batches: Iterable[Any], work: Workload, count: Callable[[Any], tuple[int, int, int]]) -> Iterator:
        """Yields a batch for every update and clocks the updates after the warm-up.

        Args:
            batches: at least one batch for each update.
            work: gives the number of updates.
            count: function from a batch to its items, tokens without padding, and slots.
        """
        batches = iter(batches)
        for update in range(work.warm_up_updates + work.updates):
            if update == work.warm_up_updates:
                self.start()
            batch = next(batches)
            if update >= work.warm_up_updates:
                self.count(*count(batch))
            yield batch
            if self.between_updates is not None and update >= work.warm_up_updates:
                self._pause()
                self.between_updates()
                self._resume()
        self.stop()

    def count(self, items: int, tokens: int = 0, slots: int = 0) -> None:
        self.items, self.tokens, self.slots = self.items + items, self.tokens + tokens, self.slots + slots

    def result(self, model: nn.Module | None) -> dict[str, Any]:
        """Returns all that was counted and clocked, and the size of the model if there is one."""
        size = {}
        if model is not None:
            parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
            size["millions_of_parameters"] = parameters / 1e6
        padding = {"padding_percent": 100 * (1 - self.tokens / self.slots)} if self.slots else {}
        return {"items": self.items, **self.clocked, **size, **padding}


def count_padded(input_ids: torch.Tensor, labels: torch.Tensor, padding: int, ignored: int) -> tuple[int, int, int]:
    """Counts a batch of pairs.

    Args:
        input_ids: source tokens, (B, S).
        labels: target tokens, (B, T).
        padding: the id of padding in the source.
        ignored: the label of padding in the target.

    Returns:
        The number of target tokens, of all tokens without padding, and of all slots.
    """
    targets = int((labels != ignored).sum())
    return targets, targets + int((input_ids != padding).sum()), input_ids.numel() + labels.numel()

"""What every contender of `benchmark.py` is given to do, and the stopwatch that measures it doing so."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass
class Workload:
    """How much is measured, and on models of what size. The defaults are those of the published figures."""

    updates: int = field(default=20, metadata={"help": "Training updates on the clock."})
    warm_up_updates: int = field(default=5, metadata={"help": "Training updates before the clock starts."})
    vocab_size: int = field(default=8000, metadata={"help": "Of the translators; joint for both languages."})
    d_model: int = field(default=256, metadata={"help": "Of the Transformers that translate, as the next three."})
    d_ff: int = 1024
    num_layers: int = field(default=3, metadata={"help": "In the encoder, and as many in the decoder."})
    num_heads: int = 4
    embedding_size: int = field(default=256, metadata={"help": "Of the recurrent translators, as the next one."})
    hidden_size: int = 512
    max_tokens_per_batch: int = field(default=4096, metadata={"help": "Of translators that fill batches by tokens."})
    marian_batch_size: int = field(default=96, metadata={"help": "Sentences to an update of MarianMTModel."})
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A trained Transformer to decode with. Left out, one is trained first."}
    )
    decoding_updates: int = field(default=400, metadata={"help": "Updates of that training."})
    max_sentences: int = field(default=1000, metadata={"help": "Test sentences to translate; the first ones."})
    gpt_vocab_size: int = field(default=10_000, metadata={"help": "Of the GPTs, as the next five."})
    gpt_hidden_size: int = 384
    gpt_layers: int = 6
    gpt_heads: int = 6
    context: int = field(default=512, metadata={"help": "Positions, and tokens of a training sequence."})
    gpt_batch_size: int = 8
    prompt_tokens: int = 16
    new_tokens: int = field(default=256, metadata={"help": "Tokens that a GPT generates after the prompt."})
    task: str = field(default="stories_sentiment", metadata={"help": "What the GPTs are to classify, such as sst2."})
    data_dir: str | None = field(default=None, metadata={"help": "Of the task, as in finetune_gpt1.py."})
    task_batch_size: int = field(default=32, metadata={"help": "Examples to an update of a classifier."})
    nanogpt_dir: str | None = field(default=None, metadata={"help": "A checkout of nanoGPT. Left out, it is skipped."})

    def __post_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1.")
        if self.prompt_tokens + self.new_tokens > self.context:
            raise ValueError(
                f"prompt_tokens {self.prompt_tokens} and new_tokens {self.new_tokens} go beyond the context of "
                f"{self.context} positions. Lower one, or raise context."
            )


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
        real, places: tokens of source and target, without and with padding.
    """

    def __init__(self):
        self.items = self.real = self.places = 0
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
            count: items, real tokens and places of a batch.
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

    def count(self, items: int, real: int = 0, places: int = 0) -> None:
        self.items, self.real, self.places = self.items + items, self.real + real, self.places + places

    def result(self, model: nn.Module) -> dict[str, Any]:
        """Everything that was counted and clocked, and the size of the model that it was done with."""
        parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        padding = {"padding_percent": 100 * (1 - self.real / self.places)} if self.places else {}
        return {"items": self.items, **self.clocked, "millions_of_parameters": parameters / 1e6, **padding}


def count_padded(input_ids: torch.Tensor, labels: torch.Tensor, padding: int, ignored: int) -> tuple[int, int, int]:
    """Target tokens, real tokens and places of a batch of pairs."""
    targets = int((labels != ignored).sum())
    return targets, targets + int((input_ids != padding).sum()), input_ids.numel() + labels.numel()

"""Counts of batches, and the updates between two log lines."""

import math
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from papers_to_gpt.engine.batching import Batch
from papers_to_gpt.engine.device_copies import send

IGNORE_INDEX = -100


@dataclass(frozen=True)
class TokenCounts:
    """Counts of a batch: tokens to predict, tokens that are not padding, and slots in its tensors.

    `class_weight` is the sum of the weights of the examples' classes, None for a loss without such weights.
    """

    target_tokens: int
    tokens: int
    slots: int
    class_weight: float | None = None


def count_tokens(batch: Batch) -> TokenCounts:
    """Returns the counts of a batch with `labels`, `input_ids` and, where it is padded, `attention_mask`."""
    targets = int((batch["labels"] != IGNORE_INDEX).sum())
    mask = batch.get("attention_mask")
    inputs = batch["input_ids"].numel() if mask is None else int(mask.sum())
    return TokenCounts(targets, targets + inputs, batch["labels"].numel() + batch["input_ids"].numel())


class LogWindow:
    """The updates since the last log line, as sums of this process.

    Everything is added on the device, in fp64 where it has it, and read when a line is due. A checkpoint keeps the
    sums, so the first line after a resume is that of an uninterrupted run. Skipped updates, whose gradient is not
    finite, are counted and otherwise left out.

    Args:
        device: the device of losses and norms.
    """

    NAMES = ("loss", "target_tokens", "tokens", "slots", "norm", "updates", "skipped_updates")
    SUMS_OVER_PROCESSES = 4  # the first four; the others are the same on every process

    def __init__(self, device: torch.device):
        dtype = torch.float64 if device.type in ("cpu", "cuda") else torch.float32
        self.sums = torch.zeros(len(self.NAMES), dtype=dtype, device=device)
        self.seconds = 0.0

    def add(self, loss: torch.Tensor, norm: torch.Tensor, counts: list[TokenCounts]) -> None:
        """Adds an update.

        Args:
            loss: loss summed over this process's target tokens, ().
            norm: norm of the gradient over all processes, (). If it is not finite, the update was skipped.
            counts: counts of this process's batches.
        """
        finite = norm.isfinite().to(self.sums)
        tokens = [sum(getattr(count, name) for count in counts) for name in ("target_tokens", "tokens", "slots")]
        counted = send(torch.tensor(tokens, dtype=self.sums.dtype), self.sums.device)
        values = torch.stack([loss.to(self.sums), *counted, norm.to(self.sums), finite])
        self.sums[:-1] += torch.where(finite.bool(), values, torch.zeros_like(values))
        self.sums[-1] += 1 - finite

    def state_dict(self, accelerator: Accelerator) -> dict[str, float]:
        """Returns the sums over all processes, which JSON keeps exactly; every process must call this."""
        sums = torch.cat(
            [
                accelerator.reduce(self.sums[: self.SUMS_OVER_PROCESSES], "sum"),
                self.sums[self.SUMS_OVER_PROCESSES :],
            ]
        )
        return {**dict(zip(self.NAMES, sums.tolist(), strict=True)), "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float], accelerator: Accelerator) -> None:
        """Takes over saved sums; those over processes become the main process's."""
        self.sums = self.sums.new_tensor([state[name] for name in self.NAMES])
        if not accelerator.is_main_process:
            self.sums[: self.SUMS_OVER_PROCESSES] = 0
        self.seconds = state["seconds"]

    def values(self, accelerator: Accelerator, counted: str) -> dict[str, float]:
        """Returns the means and rates for the log line; every process must call this.

        Args:
            accelerator: reduces over processes.
            counted: name of what `target_tokens` counts.
        """
        sums = self.state_dict(accelerator)
        updates = sums["updates"]
        values = {
            "loss": sums["loss"] / sums["target_tokens"] if updates else math.nan,
            "gradient_norm": sums["norm"] / updates if updates else math.nan,
            f"{counted}_per_second": sums["target_tokens"] / max(self.seconds, 1e-9),
            "padding_percent": 100 * (1 - sums["tokens"] / max(sums["slots"], 1)),
        }
        return values | ({"skipped_updates": int(sums["skipped_updates"])} if sums["skipped_updates"] else {})

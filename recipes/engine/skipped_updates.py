"""Updates that are left out because their gradient is not finite."""

import sys
from collections.abc import Callable, Sequence

import torch
from accelerate.optimizer import AcceleratedOptimizer
from tqdm import tqdm

from papers_to_gpt.engine.batching import LocalBatch
from papers_to_gpt.engine.checkpointing import Progress
from papers_to_gpt.engine.update_errors import name_batch

TOO_MANY = "updates in a row were skipped"  # in the error that ends a run that diverged


class SkippedUpdates:
    """Steps the optimizer where the gradient is finite, and counts the updates where it is not.

    The counts are on the device, so that an update of an accelerator need not wait for its gradient's norm.

    Args:
        device: the device of the norms.
        limit: `max_skipped_updates`.
    """

    def __init__(self, device: torch.device, limit: int):
        self.limit = limit
        self.total = self.in_a_row = torch.zeros((), dtype=torch.long, device=device)

    def load(self, total: int, in_a_row: int) -> None:
        """Takes over the counts of a checkpoint."""
        self.total, self.in_a_row = torch.full_like(self.total, total), torch.full_like(self.total, in_a_row)

    def step(self, optimizer: AcceleratedOptimizer, norm: torch.Tensor) -> None:
        """Steps the optimizer, unless the norm of the gradient, (), is not finite: then nothing changes."""
        finite = norm.isfinite()
        self.total = self.total + ~finite
        self.in_a_row = (self.in_a_row + 1) * ~finite
        inner = optimizer.optimizer
        # Fused kernels skip the step on the device, so that training need not wait for the norm. Those of MPS take
        # `found_inf` and do not read it.
        if norm.device.type not in ("cpu", "mps") and getattr(inner, "_step_supports_amp_scaling", False):
            inner.found_inf = (~finite).float()
            optimizer.step()
        elif finite:
            optimizer.step()

    def note(self, progress: Progress) -> None:
        """Notes the counts in the progress of the run. It waits for the device."""
        progress.skipped_updates, progress.skipped_in_a_row = int(self.total), int(self.in_a_row)

    def check(
        self,
        progress: Progress,
        group: Sequence[LocalBatch],
        losses: Sequence[torch.Tensor],
        *,
        is_main_process: bool,
        newest_checkpoint: Callable[[], str],
    ) -> None:
        """Notes the counts in the progress of the run, and says whether its last update was skipped, and which batches
        are to blame. It waits for the device.

        Args:
            progress: gets the counts.
            group: this process's batches of the last update.
            losses: the loss of each, ().
            is_main_process: whether this process also speaks if none of its batches is to blame.
            newest_checkpoint: returns a sentence about the checkpoint to go back to.

        Raises:
            ValueError: if `limit` updates were skipped in a row.
        """
        self.note(progress)
        if progress.skipped_in_a_row == 0:
            return
        named = [
            name_batch(batch)
            for batch, loss in zip(group, losses, strict=True)
            if batch.weight and not loss.isfinite()
        ]
        what = f"the loss of {' and '.join(named)}" if named else "the gradient"
        if named or is_main_process:
            tqdm.write(f"Update {progress.update} is skipped: {what} is not finite.", file=sys.stderr)
        if progress.skipped_in_a_row >= max(1, self.limit):
            raise ValueError(
                f"{progress.skipped_in_a_row} {TOO_MANY}, the last is update {progress.update}: "
                f"{what} is not finite (max_skipped_updates is {self.limit}). Lower learning_rate, raise "
                f"warmup_steps, or lower max_grad_norm. {newest_checkpoint()}"
            )

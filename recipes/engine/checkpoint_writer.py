"""Writes a run's checkpoints, at once or in the background, and removes those that are no longer needed."""

import copy
import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from papers_to_gpt.engine.checkpointing import (
    CHECKPOINT_PREFIX,
    MANIFEST_FILE,
    PROGRESS_FILE,
    RECOVERY_PREFIX,
    TRAINING_STATE,
    Progress,
    checkpoints_in,
    find_good_checkpoint,
    recovery_checkpoints_in,
    update_of,
)
from papers_to_gpt.engine.durable_files import WriteError, durable_folder, remove_folder
from papers_to_gpt.engine.manifest import write_manifest
from papers_to_gpt.engine.optimizer_files import pack_optimizer, write_optimizer


@dataclass
class Snapshot:
    """What a checkpoint holds: references to the tensors of a run, or copies that training does not change."""

    name: str
    progress: Progress
    weights: dict[str, torch.Tensor]
    moments: dict[str, torch.Tensor]
    optimizer_structure: list[dict[str, Any]]


class CheckpointWriter:
    """Writes a run's checkpoints, and removes older ones except the last `keep_last` and the best.

    With `background`, a save copies weights and optimizer state to the CPU's memory, and a thread writes the copy
    while training continues. The files have the same bytes. The copy takes as much memory as weights and moments
    together (1.4 GB for GPT-1's 117M parameters with Adam) for the rest of the run. A save waits while the one before
    is still being written.

    Args:
        accelerator: every process must have a writer and call its methods; the main process writes.
        output_dir: the folder of the run.
        model: the model, not wrapped for several processes.
        optimizer: of the model's parameters.
        save_model: writes the model in the form that is shared to a folder, with the weights in `state_dict`.
        keep_last: number of scheduled checkpoints to keep, including the new one; 0 keeps all.
        background: whether a thread writes.
        after_save: called with the folder of every new scheduled checkpoint, on the main process, by the thread if
            there is one.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        output_dir: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        save_model: Callable[..., None],
        keep_last: int,
        *,
        background: bool = False,
        after_save: Callable[[Path], None] | None = None,
    ):
        self.accelerator, self.output_dir, self.model, self.optimizer = accelerator, output_dir, model, optimizer
        self.save_model, self.keep_last, self.after_save = save_model, keep_last, after_save
        self.background = background
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._copies: dict[tuple[str, str], torch.Tensor] = {}

    def save(self, progress: Progress, scheduled: bool = True) -> Path:
        """Writes a checkpoint, or starts to write it.

        Args:
            progress: how far the run has come.
            scheduled: False for a checkpoint to resume from only, which the next one replaces.

        Returns:
            The checkpoint's folder.

        Raises:
            WriteError: on every process, if this checkpoint cannot be written, or one before that a thread wrote.
        """
        self.wait()
        name = f"{CHECKPOINT_PREFIX if scheduled else RECOVERY_PREFIX}{progress.update}"
        if self.accelerator.is_main_process:
            moments, structure = pack_optimizer(self.optimizer, self.model)
            snapshot = Snapshot(name, copy.deepcopy(progress), self.model.state_dict(), moments, structure)
            if self.background:
                self._copy(snapshot)
                self._thread = threading.Thread(target=self._write, args=(snapshot,), name="checkpoint writer")
                self._thread.start()
            else:
                self._write(snapshot)
        if not self.background:
            self.wait()
        return self.output_dir / name

    def join(self) -> None:
        """Waits until the thread has ended, without a word to other processes: for a run that ends by an error."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wait(self) -> None:
        """Waits until the last checkpoint is on the disk; every process calls this method before the run ends.

        Raises:
            WriteError: on every process, if it could not be written.
        """
        self.join()
        failure, self._failure = self._failure, None
        messages = [None if failure is None else str(failure)]
        broadcast_object_list(messages)
        if failure is not None:
            raise failure
        if messages[0] is not None:
            raise WriteError(messages[0])

    def _write(self, snapshot: Snapshot) -> None:
        try:
            checkpoint = write_checkpoint(self.output_dir, snapshot, self.save_model, self.keep_last)
            if self.after_save is not None and checkpoint.name.startswith(CHECKPOINT_PREFIX):
                self.after_save(checkpoint)
        except Exception as error:
            self._failure = error

    def _copy(self, snapshot: Snapshot) -> None:
        """Replaces a snapshot's tensors by copies, in memory that all saves share; tied tensors stay tied."""
        for kind, tensors in (("weights", snapshot.weights), ("moments", snapshot.moments)):
            copied: dict[tuple, torch.Tensor] = {}
            for name, tensor in tensors.items():
                place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
                if place not in copied:
                    if (kind, name) not in self._copies:
                        pinned = tensor.device.type == "cuda"
                        self._copies[kind, name] = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
                    copied[place] = self._copies[kind, name].copy_(tensor, non_blocking=True)
                tensors[name] = copied[place]
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize(self.accelerator.device)


def write_checkpoint(output_dir: Path, snapshot: Snapshot, save_model: Callable[..., None], keep_last: int) -> Path:
    """Writes a checkpoint and then removes older ones; one process calls it. See `CheckpointWriter`.

    Raises:
        WriteError: if a file cannot be written; the checkpoints before are still there.
    """
    progress = snapshot.progress
    final = output_dir / snapshot.name
    try:
        with durable_folder(final) as folder:
            state = folder / TRAINING_STATE
            state.mkdir()
            save_model(folder, state_dict=dict(snapshot.weights))
            write_optimizer(state, snapshot.moments, snapshot.optimizer_structure)
            (state / PROGRESS_FILE).write_text(json.dumps(asdict(progress), indent=2) + "\n", encoding="utf-8")
            write_manifest(folder, state / MANIFEST_FILE)
    except WriteError as error:
        good, _ = find_good_checkpoint(output_dir)
        raise WriteError(f"{error} " + (f"That is {good}." if good else "There is none yet.")) from error
    for old in outdated_checkpoints(checkpoints_in(output_dir), progress, keep_last):
        remove_folder(old)
    for old in recovery_checkpoints_in(output_dir):
        if old != final:
            remove_folder(old)
    return final


def outdated_checkpoints(checkpoints: list[Path], progress: Progress, keep_last: int) -> list[Path]:
    """Returns the checkpoints to remove when the one of `progress` is written.

    These are older checkpoints, except the best one and the newest `keep_last`, and those of later updates, which
    exist if a run was resumed from an earlier checkpoint and do not belong to the resumed run.
    """
    later = [path for path in checkpoints if update_of(path) > progress.update]
    others = checkpoints[: len(checkpoints) - len(later)]
    old = others[:-keep_last] if keep_last else []
    return [path for path in old if update_of(path) != progress.best_update] + later

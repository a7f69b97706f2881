"""Writes a run's checkpoints, at once or in the background, and removes those that are no longer needed.

In a sharded run each process writes its share of weights and optimizer state into the folder that the main process has
made, and flushes it. The main process then writes the manifest of all files, with their checksums, and renames the
folder. If any process fails before, no checkpoint comes to be, and all of them raise the error.
"""

import contextlib
import copy
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import distributed, nn
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from papers_to_gpt.engine.checkpointing import (
    CHECKPOINT_PREFIX,
    MANIFEST_FILE,
    PROGRESS_FILE,
    RECOVERY_PREFIX,
    TRAINING_STATE,
    Progress,
    checkpoints_in,
    consolidate,
    find_good_checkpoint,
    recovery_checkpoints_in,
    update_of,
)
from papers_to_gpt.engine.durable_files import (
    PARTIAL_FOLDER,
    WriteError,
    durable_folder,
    naming_failed_writes,
    remove_folder,
)
from papers_to_gpt.engine.manifest import write_manifest
from papers_to_gpt.engine.model_folder import WEIGHT_SHARES
from papers_to_gpt.engine.optimizer_files import TENSOR_SHARES, pack_optimizer, write_moments, write_structure
from papers_to_gpt.engine.process_watch import note_progress
from papers_to_gpt.engine.shares import own_tensors, write_shares


@dataclass
class Snapshot:
    """What a checkpoint holds: references to the tensors of a run, or copies that training does not change.

    In a sharded run the tensors are split, and this process has its parts of them.
    """

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
        output_dir: the folder of the run, on a disk that all processes share if the run is sharded.
        model: the model, not wrapped for several processes.
        optimizer: of the model's parameters.
        save_model: writes the model in the form that is shared to a folder, with the weights in `state_dict`.
        keep_last: number of scheduled checkpoints to keep, including the new one; 0 keeps all.
        background: whether a thread writes.
        after_save: called with the folder of every new scheduled checkpoint, on the main process, by the thread if
            there is one. In a sharded run the weights then also lie there as a whole.
        group: the processes of a sharded run, each of which writes its share. It communicates on the CPU and is used
            by nothing else. None: the main process writes all.
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
        group: distributed.ProcessGroup | None = None,
    ):
        self.accelerator, self.output_dir, self.model, self.optimizer = accelerator, output_dir, model, optimizer
        self.save_model, self.keep_last, self.after_save = save_model, keep_last, after_save
        self.background, self.group = background, group
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._copies: dict[tuple[str, str], torch.Tensor] = {}
        # Copies tensors that are split, which a plain copy does not, into memory that it keeps.
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=accelerator.device.type == "cuda",
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=False,
            )
        )

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
        note_progress("writing a checkpoint", progress.update)
        name = f"{CHECKPOINT_PREFIX if scheduled else RECOVERY_PREFIX}{progress.update}"
        if self.accelerator.is_main_process or self.group:
            moments, structure = pack_optimizer(self.optimizer, self.model)
            weights = own_tensors(self.model) if self.group else self.model.state_dict()
            snapshot = Snapshot(name, copy.deepcopy(progress), weights, moments, structure)
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
        note_progress("writing a checkpoint")
        self.join()
        note_progress("writing a checkpoint")
        failure, self._failure = self._failure, None
        messages = [None if failure is None else str(failure)]
        broadcast_object_list(messages)
        if failure is not None:
            raise failure
        if messages[0] is not None:
            raise WriteError(messages[0])

    def _write(self, snapshot: Snapshot) -> None:
        try:
            shared = self.after_save is not None and snapshot.name.startswith(CHECKPOINT_PREFIX)
            checkpoint = self.output_dir / snapshot.name
            if self.group:
                write_sharded_checkpoint(checkpoint, snapshot, self.save_model, self.group, also_whole=shared)
            else:
                write_checkpoint(checkpoint, snapshot, self.save_model)
            if self.accelerator.is_main_process:
                remove_outdated(checkpoint, snapshot.progress, self.keep_last)
                if shared:
                    self.after_save(checkpoint)
        except Exception as error:
            self._failure = error

    def _copy(self, snapshot: Snapshot) -> None:
        """Replaces a snapshot's tensors by copies, in memory that all saves share; tied tensors stay tied."""
        if self.group:
            snapshot.weights = self._stager.stage(snapshot.weights)
            snapshot.moments = self._stager.stage(snapshot.moments)
            return
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
        if self.accelerator.device.type != "cpu":
            torch.accelerator.synchronize(self.accelerator.device)


def write_checkpoint(final: Path, snapshot: Snapshot, save_model: Callable[..., None]) -> None:
    """Writes a checkpoint; one process calls it. See `CheckpointWriter`.

    Raises:
        WriteError: if a file cannot be written; the checkpoints before are still there.
    """
    with naming_last_checkpoint(final), durable_folder(final) as folder:
        write_description(folder, snapshot, save_model, dict(snapshot.weights))
        write_moments(folder / TRAINING_STATE, snapshot.moments)
        write_manifest(folder, folder / TRAINING_STATE / MANIFEST_FILE)


def write_sharded_checkpoint(
    final: Path,
    snapshot: Snapshot,
    save_model: Callable[..., None],
    group: distributed.ProcessGroup,
    also_whole: bool = False,
) -> None:
    """Writes a checkpoint in shares; every process calls it.

    Args:
        final: the checkpoint's folder.
        snapshot: with this process's parts.
        save_model: called on the main process, with an empty `state_dict`.
        group: the processes.
        also_whole: whether the weights are also written as a whole, for whoever loads the checkpoint as a model.

    Raises:
        WriteError: on every process, if one cannot write; the checkpoints before are still there. What fails after
            all have written their shares is raised on the main process alone.
    """
    is_main = distributed.get_rank(group) == 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(naming_last_checkpoint(final))
        with failing_together(group):
            folder = final.with_name(PARTIAL_FOLDER + final.name)
            if is_main:
                folder = stack.enter_context(durable_folder(final))
                write_description(folder, snapshot, save_model, {})
        with naming_failed_writes(folder, shown_as=final):
            write_shares(folder / WEIGHT_SHARES, snapshot.weights, group)
            write_shares(folder / TRAINING_STATE / TENSOR_SHARES, snapshot.moments, group)
        if is_main:
            if also_whole:
                consolidate(folder)
            write_manifest(folder, folder / TRAINING_STATE / MANIFEST_FILE)


def write_description(
    folder: Path, snapshot: Snapshot, save_model: Callable[..., None], weights: dict[str, torch.Tensor]
) -> None:
    """Writes the model with these weights, and of the training state all that is no tensor."""
    state = folder / TRAINING_STATE
    state.mkdir()
    save_model(folder, state_dict=weights)
    write_structure(state, snapshot.optimizer_structure)
    progress = json.dumps(asdict(snapshot.progress), indent=2) + "\n"
    (state / PROGRESS_FILE).write_text(progress, encoding="utf-8")


@contextlib.contextmanager
def failing_together(group: distributed.ProcessGroup) -> Iterator[None]:
    """Lets a block end with an error on every process of a group if it does so on one.

    Raises:
        WriteError: on a process whose own block has ended well.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    messages: list[str | None] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(messages, None if failure is None else str(failure), group=group)
    if failure is not None:
        raise failure
    if message := next(filter(None, messages), None):
        raise WriteError(message)


@contextlib.contextmanager
def naming_last_checkpoint(final: Path) -> Iterator[None]:
    """Adds to the message of a failed write which checkpoint is left."""
    try:
        yield
    except WriteError as error:
        good, _ = find_good_checkpoint(final.parent)
        raise WriteError(f"{error} " + (f"That is {good}." if good else "There is none yet.")) from error


def remove_outdated(final: Path, progress: Progress, keep_last: int) -> None:
    """Removes the checkpoints that are no longer needed when a new one has been written."""
    for old in outdated_checkpoints(checkpoints_in(final.parent), progress, keep_last):
        remove_folder(old)
    for old in recovery_checkpoints_in(final.parent):
        if old != final:
            remove_folder(old)


def outdated_checkpoints(checkpoints: list[Path], progress: Progress, keep_last: int) -> list[Path]:
    """Returns the checkpoints to remove when the one of `progress` is written.

    These are older checkpoints, except the best one and the newest `keep_last`, and those of later updates, which
    exist if a run was resumed from an earlier checkpoint and do not belong to the resumed run.
    """
    later = [path for path in checkpoints if update_of(path) > progress.update]
    others = checkpoints[: len(checkpoints) - len(later)]
    old = others[:-keep_last] if keep_last else []
    return [path for path in old if update_of(path) != progress.best_update] + later

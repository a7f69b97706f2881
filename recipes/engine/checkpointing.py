"""Checkpoints: a folder that `from_pretrained` loads, with the state that an interrupted run needs to resume exactly.

    checkpoint-500/
        config.json, model.safetensors, tokenizer...    the model in the form that is shared
        training_state/
            progress.json       updates, epoch, batches of the epoch, best score
            optimizer.pt        the optimizer's moments

A checkpoint is written under another name and renamed when it is complete, so every checkpoint folder is complete.
"""

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

CHECKPOINT_PREFIX = "checkpoint-"
# Written between the others, by the clock or when a run is stopped, and only to resume from: which there are must not
# change the result of a run, so they are not averaged, and the next checkpoint replaces them.
RECOVERY_PREFIX = "recovery-"
TRAINING_STATE = "training_state"


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        update: updates done.
        epoch, updates_in_epoch: complete epochs, and updates of the present epoch that are done.
        batches_per_update: batches of an update over all processes; a run keeps it on another number of processes.
        target_tokens: tokens that the loss was computed on.
        train_seconds: time spent in updates.
        elapsed_seconds: time since the start, evaluation and checkpoints included.
        best_update, best_score: the best evaluation so far; None before the first.
        evaluations_without_improvement: number of evaluations since the best one.
        evaluation_is_due: whether an evaluation after this update was not finished.
        skipped_updates, skipped_in_a_row: updates whose gradient was not finite: all, and up to this one in a row.
        log_window: sums since the last log line (see `LogWindow`).
        stream: the position in a stream (see `StreamBatches.state_dict`).
    """

    update: int = 0
    epoch: int = 0
    updates_in_epoch: int = 0
    batches_per_update: int = 1
    target_tokens: int = 0
    train_seconds: float = 0.0
    elapsed_seconds: float = 0.0
    best_update: int | None = None
    best_score: float | None = None
    evaluations_without_improvement: int = 0
    evaluation_is_due: bool = False
    skipped_updates: int = 0
    skipped_in_a_row: int = 0
    log_window: dict[str, float] | None = None
    stream: dict[str, Any] | None = None


def checkpoints_in(output_dir: str | Path, prefix: str = CHECKPOINT_PREFIX) -> list[Path]:
    """Returns the scheduled checkpoints of a run in the order of their updates."""
    found = [path for path in Path(output_dir).glob(f"{prefix}*") if path.name[len(prefix) :].isdigit()]
    return sorted(found, key=update_of)


def recovery_checkpoints_in(output_dir: str | Path) -> list[Path]:
    """Returns the checkpoints that were written between the scheduled ones, in the order of their updates."""
    return checkpoints_in(output_dir, RECOVERY_PREFIX)


def update_of(checkpoint: Path) -> int:
    """Returns the update after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def newest_checkpoint(output_dir: str | Path) -> Path | None:
    """Returns the checkpoint of a run with the most updates, of either kind; None if there is none."""
    return max([*recovery_checkpoints_in(output_dir), *checkpoints_in(output_dir)], key=update_of, default=None)


def save_checkpoint(
    accelerator: Accelerator,
    output_dir: Path,
    progress: Progress,
    optimizer: torch.optim.Optimizer,
    save_model: Callable[[Path], None],
    keep_last: int,
    scheduled: bool = True,
) -> Path:
    """Writes a checkpoint and removes older ones, except the last `keep_last` and the best.

    Args:
        accelerator: every process must call this function; the main process writes the model.
        output_dir: the folder of the run.
        progress: how far the run has come.
        optimizer: the optimizer whose state is saved.
        save_model: writes the model in the form that is shared to a folder.
        keep_last: number of scheduled checkpoints to keep, including the new one; 0 keeps all.
        scheduled: False for a checkpoint to resume from only, which the next one replaces.

    Returns:
        The checkpoint's folder.
    """
    final = output_dir / f"{CHECKPOINT_PREFIX if scheduled else RECOVERY_PREFIX}{progress.update}"
    partial = output_dir / f"partial-{final.name}"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / TRAINING_STATE).mkdir(parents=True)
    accelerator.wait_for_everyone()
    state = partial / TRAINING_STATE
    if accelerator.is_main_process:
        save_model(partial)
        torch.save(optimizer.state_dict(), state / "optimizer.pt")
        (state / "progress.json").write_text(json.dumps(asdict(progress), indent=2) + "\n")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in checkpoints_in(output_dir)[:-keep_last] if keep_last else []:
            if update_of(old) != progress.best_update:
                shutil.rmtree(old)
        for old in recovery_checkpoints_in(output_dir):
            if old != final:
                shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def load_checkpoint(
    accelerator: Accelerator, checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> Progress:
    """Restores the model, the optimizer and the random generators in place.

    Returns:
        How far the run had come.

    Raises:
        ValueError: if the folder has no training state, was written by another number of processes, or holds the
            weights of another model; or if one of its files cannot be read.
    """
    state = checkpoint / TRAINING_STATE
    missing = [path.name for path in (state / "progress.json", state / "optimizer.pt") if not path.is_file()]
    if missing:
        raise ValueError(
            f"{checkpoint} cannot be resumed from: {state} lacks {', '.join(missing)}. Set resume_from_checkpoint to "
            "a checkpoint with its training state, or to last."
        )
    load_weights(model, checkpoint)
    # weights_only unpickles nothing but tensors, numbers and strings, so a foreign file cannot run code.
    read_tensors = partial(torch.load, map_location="cpu", weights_only=True)
    optimizer.load_state_dict(_read(state / "optimizer.pt", read_tensors))
    values = _read(state / "progress.json", lambda path: json.loads(path.read_text()))
    return Progress(**{field.name: values[field.name] for field in fields(Progress) if field.name in values})


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    """What `read` makes of a file; an error that does not name the file becomes one that does."""
    try:
        return read(path)
    except (SafetensorError, ValueError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); it may be cut off. Copy the file again, or set resume_from_checkpoint "
            "to another checkpoint."
        ) from error


def load_weights(model: nn.Module, folder: Path) -> None:
    """Copies a folder's weights into a model of the same configuration, in place.

    Raises:
        ValueError: if the folder lacks weights of the model or has others, or if its file cannot be read.
    """
    weights = _read(folder / "model.safetensors", load_file)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    # A tied weight is saved under only one of its names, so the other name is missing.
    owned = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    lacking = [name for name in missing if name in owned]
    if lacking or unexpected:
        raise ValueError(
            f"{folder} holds another model: it lacks {lacking[:3]} and has the unexpected {unexpected[:3]}. Use a "
            "checkpoint of a run with the same settings."
        )


def average_weights(
    checkpoints: list[Path],
    target: Path,
    rename_old_keys: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = dict,
) -> None:
    """Writes the mean of several checkpoints' weights, computed in fp32, to `target/model.safetensors`.

    Vaswani et al. 2017, section 6.1, average the last 5 checkpoints of the base model and the last 20 of the big one.

    Args:
        checkpoints: the folders of the checkpoints.
        target: the folder to write to.
        rename_old_keys: returns a checkpoint's tensors under the names that the model uses now. Without it, the
            checkpoints must use the same names.
    """
    total: dict[str, torch.Tensor] = {}
    with safe_open(checkpoints[0] / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    for checkpoint in checkpoints:
        weights = rename_old_keys(load_file(checkpoint / "model.safetensors"))
        dtypes = {name: tensor.dtype for name, tensor in weights.items()}
        for name, tensor in weights.items():
            total[name] = total.get(name, 0) + tensor.float() / len(checkpoints)
    mean = {name: tensor.to(dtypes[name]) for name, tensor in total.items()}
    save_file(mean, target / "model.safetensors", metadata=metadata)
    # safetensors creates files that only their owner may read.
    shutil.copymode(checkpoints[0] / "model.safetensors", target / "model.safetensors")

"""Checkpoints: a folder that `from_pretrained` loads, with the state that an interrupted run needs to resume exactly.

    checkpoint-500/
        config.json, model.safetensors, tokenizer...    the model in the form that is shared
        training_state/
            progress.json                           updates, epoch, batches of the epoch, best score
            optimizer.safetensors, optimizer.json   the optimizer's moments and its groups of parameters
            manifest.json                           size and checksum of every other file of the checkpoint

A sharded run (FSDP2) writes two folders in place of `model.safetensors` and `optimizer.safetensors`. Each of them has
a file of every process (see `shares.py`). A run of any number of processes, sharded or not, resumes from either form.

    checkpoint-500/
        config.json, tokenizer...
        training_state/
            weights/shard-00001-model-00001-of-00001.safetensors, shard-00002-...
            optimizer/shard-00001-model-00001-of-00001.safetensors, shard-00002-...
            progress.json, optimizer.json, manifest.json

A checkpoint is a transaction (`checkpoint_writer.py`). It is written under another name, flushed to the disk and
renamed, so every checkpoint folder is complete, after a loss of power too; older checkpoints are removed only then.
What happens to its files later is found by the manifest. Nothing in it is pickled. Checkpoints of earlier versions,
with their moments in `optimizer.pt`, can be resumed from: their pickle is read by a reader that makes tensors, numbers
and text only.
"""

import contextlib
import json
import pickle
import shutil
import types
import typing
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from papers_to_gpt.engine.durable_files import durable_folder, files_written_aside
from papers_to_gpt.engine.manifest import damaged_files
from papers_to_gpt.engine.model_folder import WEIGHT_SHARES
from papers_to_gpt.engine.optimizer_files import (
    STATE_OF_EARLIER_VERSIONS,
    STRUCTURE_FILE,
    TENSOR_SHARES,
    TENSORS_FILE,
    check_optimizer,
    read_optimizer,
    read_optimizer_of_earlier_versions,
)
from papers_to_gpt.engine.shares import part_of, read_shares, shapes_in
from papers_to_gpt.settings.wording import counted

CHECKPOINT_PREFIX = "checkpoint-"
# Written between the others, by the clock or when a run is stopped, and only to resume from: which there are must not
# change the result of a run, so they are not averaged, and the next checkpoint replaces them.
RECOVERY_PREFIX = "recovery-"
TRAINING_STATE = "training_state"
WEIGHTS_FILE = "model.safetensors"
PROGRESS_FILE = "progress.json"
MANIFEST_FILE = "manifest.json"
FORMAT = {"format": "pt"}  # what save_pretrained says of the weights in their header
READ_ERRORS = (OSError, ValueError, RuntimeError, EOFError, KeyError, IndexError, TypeError, AttributeError)


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
        evaluated_update: the update of the last evaluation; None before the first, and from earlier versions.
        skipped_updates, skipped_in_a_row: updates whose gradient was not finite: all, and up to this one in a row.
        log_window: sums since the last log line (see `LogWindow`).
        batches_in_epoch: position in checkpoints of earlier versions, in batches of one process.
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
    evaluated_update: int | None = None
    skipped_updates: int = 0
    skipped_in_a_row: int = 0
    log_window: dict[str, float] | None = None
    stream: dict[str, Any] | None = None
    batches_in_epoch: int | None = None

    def epochs(self, updates_per_epoch: int | None) -> float:
        """Returns the epochs that are done, with a part of the present one; without it if its length is not known."""
        part = min(1.0, self.updates_in_epoch / updates_per_epoch) if updates_per_epoch else 0.0
        return round(self.epoch + part, 2)


def read_progress(path: Path) -> Progress:
    """Reads a checkpoint's `progress.json`.

    A field that the file does not have takes its default, and one that `Progress` does not have is left out: versions
    before and after this one have other fields.

    Raises:
        ValueError: if the file is not JSON, or a field has a value of another type.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}).") from error
    hints = typing.get_type_hints(Progress)
    known = {name: value for name, value in values.items() if name in hints} if isinstance(values, dict) else {}
    if "update" not in known:
        raise ValueError(f"{path} does not say how far the run has come: it has no update.")
    for name, value in known.items():
        if not _has_type(value, hints[name]):
            raise ValueError(
                f"{path}: {name} is {value!r}, but must be {getattr(hints[name], '__name__', hints[name])}."
            )
    return Progress(**known)


def _has_type(value: Any, hint: Any) -> bool:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(_has_type(value, part) for part in typing.get_args(hint))
    kind = typing.get_origin(hint) or hint
    if kind is Any:
        return True
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def name_with_run(name: str | Path) -> str:
    """Returns the last part of a model's folder or Hub id, for a checkpoint after the name of its run.

    Args:
        name: a folder, which may be written as ".", or a Hub id.
    """
    folder = Path(name).resolve() if Path(name).is_dir() else Path(name)
    is_checkpoint = folder.name.startswith(CHECKPOINT_PREFIX) and folder.parent.name
    return f"{folder.parent.name}/{folder.name}" if is_checkpoint else folder.name


def checkpoints_in(output_dir: str | Path, prefix: str = CHECKPOINT_PREFIX) -> list[Path]:
    """Returns the scheduled checkpoints of a run in the order of their updates."""
    found = [path for path in Path(output_dir).glob(f"{prefix}*") if path.name[len(prefix) :].isdigit()]
    return sorted(found, key=update_of)


def recovery_checkpoints_in(output_dir: str | Path) -> list[Path]:
    """Returns the checkpoints that were written between the scheduled ones, in the order of their updates."""
    return checkpoints_in(output_dir, RECOVERY_PREFIX)


def all_checkpoints_in(output_dir: str | Path) -> list[Path]:
    """Returns the checkpoints of both kinds that a run can resume from, in the order of their updates."""
    # sorted() keeps the order of equals, so of two checkpoints of an update the scheduled one counts as newer.
    return sorted([*recovery_checkpoints_in(output_dir), *checkpoints_in(output_dir)], key=update_of)


def update_of(checkpoint: Path) -> int:
    """Returns the update after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


# Checking


def verify_checkpoint(checkpoint: Path, model: nn.Module | None = None) -> list[str]:
    """Reads a checkpoint's files and compares them with its manifest.

    Args:
        checkpoint: the folder.
        model: if given, names and shapes of weights and moments are compared with the model's.

    Returns:
        One clause for each problem, such as "model.safetensors is damaged: its checksum differs"; an empty list for
        a checkpoint that can be resumed from.
    """
    state = checkpoint / TRAINING_STATE
    if not checkpoint.is_dir():
        return ["it is no folder"]
    if not state.is_dir():
        return [f"it has no folder {TRAINING_STATE}"]
    if _is_of_an_earlier_version(checkpoint):
        problems = _problems_of_an_earlier_version(checkpoint)
    else:
        problems = damaged_files(checkpoint, state / MANIFEST_FILE, _required_files(checkpoint))
    if not problems:
        with _collecting(problems, f"{TRAINING_STATE}/{PROGRESS_FILE}"):
            read_progress(state / PROGRESS_FILE)
        if model is not None:
            with _collecting(problems, WEIGHTS_FILE):
                _check_shapes(checkpoint, model)
            if not _is_of_an_earlier_version(checkpoint):
                with _collecting(problems, f"{TRAINING_STATE}/{TENSORS_FILE}"):
                    check_optimizer(state, model)
    return problems


def find_good_checkpoint(
    output_dir: str | Path, model: nn.Module | None = None, before: int | None = None
) -> tuple[Path | None, list[str]]:
    """Finds the newest checkpoint that can be resumed from.

    Args:
        output_dir: the folder of the run.
        model: see `verify_checkpoint`.
        before: if given, only checkpoints of earlier updates are looked at.

    Returns:
        The checkpoint, None if there is none; and one sentence for each newer one that is damaged, in one line.
    """
    skipped = []
    for checkpoint in reversed(all_checkpoints_in(output_dir)):
        if before is None or update_of(checkpoint) < before:
            problems = verify_checkpoint(checkpoint, model)
            if not problems:
                return checkpoint, skipped
            more = f" (and {counted(len(problems) - 1, 'more problem')})" if len(problems) > 1 else ""
            skipped.append(f"{checkpoint} cannot be resumed from and is skipped: {problems[0]}{more}.")
    return None, skipped


def check_checkpoint(checkpoint: Path, model: nn.Module | None = None) -> None:
    """Refuses a damaged checkpoint that the user has named.

    Raises:
        ValueError: names the damaged files, and the good checkpoint before it in the same folder.
    """
    problems = verify_checkpoint(checkpoint, model)
    if not problems:
        return
    number = checkpoint.name.rpartition("-")[2]
    good = find_good_checkpoint(checkpoint.parent, model, int(number))[0] if number.isdigit() else None
    remedy = f"set resume_from_checkpoint to {good}, the one before" if good else "name another checkpoint"
    raise ValueError(f"{checkpoint} cannot be resumed from: {'; '.join(problems)}. Copy it again, or {remedy}.")


@contextlib.contextmanager
def _collecting(problems: list[str], name: str) -> Iterator[None]:
    """Adds what a reader of the file `name` finds wrong to the problems."""
    try:
        yield
    except ValueError as error:  # it names the file
        problems.append(str(error).rstrip("."))
    except (SafetensorError, OSError) as error:
        problems.append(f"{name} is damaged ({error})")


def _required_files(checkpoint: Path) -> tuple[str, ...]:
    """Returns the files that a manifest must name; shares that lie in the checkpoint are among them."""
    folders = [checkpoint / WEIGHT_SHARES, checkpoint / TRAINING_STATE / TENSOR_SHARES]
    if any(folder.is_dir() for folder in folders):
        shares = sorted(path for folder in folders for path in folder.glob("*.safetensors"))
        tensors = [path.relative_to(checkpoint).as_posix() for path in shares]
    else:
        tensors = [WEIGHTS_FILE, f"{TRAINING_STATE}/{TENSORS_FILE}"]
    return *tensors, *(f"{TRAINING_STATE}/{name}" for name in (PROGRESS_FILE, STRUCTURE_FILE))


def _is_of_an_earlier_version(checkpoint: Path) -> bool:
    state = checkpoint / TRAINING_STATE
    return (state / STATE_OF_EARLIER_VERSIONS).exists() and not (state / MANIFEST_FILE).exists()


def _problems_of_an_earlier_version(checkpoint: Path) -> list[str]:
    """What can be found without a manifest: files that are missing or cut, and damage of `optimizer.pt`."""
    problems = []
    weights, moments = checkpoint / WEIGHTS_FILE, checkpoint / TRAINING_STATE / STATE_OF_EARLIER_VERSIONS
    for path in (weights, checkpoint / TRAINING_STATE / PROGRESS_FILE):
        if not path.is_file():
            problems.append(f"{path.relative_to(checkpoint)} is missing")
    try:
        if weights.is_file():
            with safe_open(weights, framework="pt"):
                pass
    except (OSError, SafetensorError) as error:
        problems.append(f"{WEIGHTS_FILE} is damaged ({error})")
    try:
        with zipfile.ZipFile(moments) as archive:  # torch.save writes a zip archive, which has a checksum of each part
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        damaged = str(error)
    if damaged:
        problems.append(f"{moments.relative_to(checkpoint)} is damaged ({damaged})")
    return problems


# Reading


def load_checkpoint(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Restores the model and the optimizer in place. If the model is sharded, each process reads its own part.

    Returns:
        How far the run had come.

    Raises:
        ValueError: if a file is missing or cannot be read, or holds the state of another model.
    """
    state = checkpoint / TRAINING_STATE
    earlier = _is_of_an_earlier_version(checkpoint)
    moments = TENSOR_SHARES if (state / TENSOR_SHARES).is_dir() else TENSORS_FILE
    needed = (PROGRESS_FILE, *((STATE_OF_EARLIER_VERSIONS,) if earlier else (moments, STRUCTURE_FILE)))
    missing = [name for name in needed if not (state / name).exists()]
    if missing:
        raise ValueError(
            f"{checkpoint} cannot be resumed from: {state} lacks {', '.join(missing)}. Set resume_from_checkpoint to "
            "a checkpoint with its training state, or to last."
        )
    progress = read_progress(state / PROGRESS_FILE)
    load_weights(model, checkpoint)
    if earlier:
        try:
            read_optimizer_of_earlier_versions(state, optimizer)
        except (*READ_ERRORS, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{state / STATE_OF_EARLIER_VERSIONS} cannot be read ({error}). Copy it again, or set "
                "resume_from_checkpoint to another checkpoint."
            ) from error
    else:
        read_optimizer(state, optimizer, model)
    return progress


def _read_weights(
    folder: Path, like: Callable[[str], torch.Tensor | None] = lambda name: None
) -> dict[str, torch.Tensor]:
    """Reads a folder's weights; from shares, those that are split like `like` (see `read_shares`) in parts."""
    if (folder / WEIGHT_SHARES).is_dir():
        return read_shares(folder / WEIGHT_SHARES, like)
    path = folder / WEIGHTS_FILE
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} holds no weights: {path} is missing. Copy it again, or name another folder."
        ) from error
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); it may be cut off. Copy it again, or take another checkpoint."
        ) from error


def load_weights(model: nn.Module, folder: Path) -> None:
    """Copies a folder's weights into a model of the same configuration, in place.

    The model may be split among processes: each then takes its own part.

    Raises:
        ValueError: if the folder lacks weights of the model or has others, or if its file cannot be read.
    """
    present = model.state_dict()
    weights = _read_weights(folder, present.get)
    _compare(folder, {name: tensor.shape for name, tensor in weights.items()}, model)
    weights = getattr(model, "rename_old_keys", dict)(weights)
    model.load_state_dict({name: part_of(tensor, present[name]) for name, tensor in weights.items()}, strict=False)


def _check_shapes(folder: Path, model: nn.Module) -> None:
    """Compares the names and shapes of a folder's weights with a model."""
    if (folder / WEIGHT_SHARES).is_dir():
        _compare(folder, shapes_in(folder / WEIGHT_SHARES), model)
        return
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        _compare(folder, {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}, model)


def _compare(folder: Path, shapes: dict[str, torch.Size], model: nn.Module) -> None:
    """Refuses weights of other names or shapes than the model's."""
    shapes = getattr(model, "rename_old_keys", dict)(shapes)
    owned = dict(model.named_parameters())  # a tied weight under the one name that is saved
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    buffers = {name for name, _ in model.named_buffers()} & expected.keys()
    lacking = [name for name in expected if name not in shapes and (name in owned or name in buffers)]
    unexpected = [name for name in shapes if name not in expected]
    if lacking or unexpected:
        raise ValueError(
            f"{folder} holds another model: {WEIGHTS_FILE} lacks {lacking[:3]} and has the unexpected "
            f"{unexpected[:3]}. Use a checkpoint of a run with the same settings."
        )
    for name, shape in shapes.items():
        if shape != expected[name]:
            raise ValueError(
                f"{folder} holds a model of another size: {name} is {list(shape)} in {WEIGHTS_FILE}, but "
                f"{list(expected[name])} in this run. Use a checkpoint of a run with the same settings."
            )


def average_weights(
    checkpoints: list[Path],
    target: Path,
    rename_old_keys: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = dict,
) -> None:
    """Writes the mean of several checkpoints' weights, computed in fp64, to `target/model.safetensors`.

    A tensor that is the same in all of them keeps its bits, as frozen weights must.

    Vaswani et al. 2017, section 6.1, average the last 5 checkpoints of the base model and the last 20 of the big one.

    Args:
        checkpoints: the folders of the checkpoints.
        target: the folder to write to.
        rename_old_keys: returns a checkpoint's tensors under the names that the model uses now. Without it, the
            checkpoints must use the same names.

    Raises:
        ValueError: if a checkpoint's weights cannot be read, or have other names or shapes than the first one's.
    """
    total: dict[str, torch.Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for checkpoint in checkpoints:
        weights = rename_old_keys(_read_weights(checkpoint))
        if total and {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in total.items()}:
            raise ValueError(
                f"The weights of {checkpoint} and {checkpoints[0]} differ in names or shapes, so they have no mean. "
                "Remove the checkpoint that belongs to another run."
            )
        dtypes = {name: tensor.dtype for name, tensor in weights.items()}
        for name, tensor in weights.items():
            total[name] = total.get(name, 0) + tensor.double()
    mean = {name: (tensor / len(checkpoints)).to(dtypes[name]) for name, tensor in total.items()}
    with files_written_aside(target) as folder:
        save_file(mean, folder / WEIGHTS_FILE, metadata=FORMAT)


def consolidate(checkpoint: Path) -> None:
    """Writes the weights that lie in a checkpoint's shares as a whole, so that `from_pretrained` loads it.

    Raises:
        ValueError: if a share is missing or cannot be read.
    """
    save_file(read_shares(checkpoint / WEIGHT_SHARES), checkpoint / WEIGHTS_FILE, metadata=FORMAT)


def write_whole_model(checkpoint: Path, target: Path) -> None:
    """Writes the model of a checkpoint whose weights lie in shares to a folder that `from_pretrained` loads.

    The folder holds what the run would have saved at this update if it had not been sharded, without the state of
    training. It takes its name when all of it is on the disk.

    Args:
        checkpoint: the folder of the checkpoint, which stays as it is. Its weights must fit into memory as a whole.
        target: the folder to write; it must be new or empty, and not in the checkpoint.

    Raises:
        ValueError: if the checkpoint is damaged or has its weights as a whole, or the target holds something.
        WriteError: if the disk does not take it.
    """
    if not (checkpoint / WEIGHT_SHARES).is_dir():
        raise ValueError(
            f"consolidate_to is {target}, but {checkpoint} has no shares of weights ({WEIGHT_SHARES}), as the "
            "checkpoint of an FSDP2 run has. Use it as it is, without consolidate_to."
        )
    if (checkpoint / WEIGHTS_FILE).is_file():
        raise ValueError(
            f"consolidate_to is {target}, but {checkpoint} also holds its weights as a whole, in {WEIGHTS_FILE}. Use "
            "it as it is, without consolidate_to."
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"consolidate_to is {target}, which exists. Name a new folder.")
    if target.resolve().is_relative_to(checkpoint.resolve()):
        raise ValueError(f"consolidate_to is {target}, which is in the checkpoint itself. Name a folder beside it.")
    problems = damaged_files(checkpoint, checkpoint / TRAINING_STATE / MANIFEST_FILE, _required_files(checkpoint))
    # A model does not need the state of the optimizer.
    problems = [problem for problem in problems if not problem.startswith(f"{TRAINING_STATE}/{TENSOR_SHARES}")]
    if problems:
        raise ValueError(
            f"{checkpoint} cannot become a model: {'; '.join(problems)}. Copy it again, or take another checkpoint."
        )
    weights = read_shares(checkpoint / WEIGHT_SHARES)
    with durable_folder(target, then="run the command again") as folder:
        shutil.copytree(
            checkpoint, folder, dirs_exist_ok=True, ignore=lambda _, names: {TRAINING_STATE}.intersection(names)
        )
        save_file(weights, folder / WEIGHTS_FILE, metadata=FORMAT)

"""Decides what a start finds in its output folder: nothing, an unfinished run to continue, or a finished one.

The same command starts a run and resumes it. `run.yaml` says what the run is; the newest good checkpoint says
where it stands; the entry `finished` of `run.yaml`, which is written last, says that it has ended.
"""

import contextlib
import dataclasses
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_relative_import_files

from papers_to_gpt.engine.checkpointing import (
    Progress,
    all_checkpoints_in,
    check_checkpoint,
    find_good_checkpoint,
    update_of,
)
from papers_to_gpt.engine.data_fingerprint import Fingerprint, compare_fingerprints, fingerprint_rows
from papers_to_gpt.engine.durable_files import clean_leftovers, remove_folder, write_durably
from papers_to_gpt.engine.reporting import CARD_FILE, LOG_FILE, RESULTS_FILE, RUN_FILE, read_run_record
from papers_to_gpt.engine.run_differences import Differences, find_differences, length_changes
from papers_to_gpt.engine.run_lock import on_main_process
from papers_to_gpt.settings.training import TrainingSettings
from papers_to_gpt.settings.wording import counted

logger = logging.getLogger(__name__)

# What a run writes into its folder besides checkpoints and the code of its model. Weights go first and the record
# last: an overwriting that is cut short leaves no weights beside another tokenizer, and is still known as a run.
WEIGHTS = ("*.safetensors", "model.safetensors.index.json")
FILES = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja", CARD_FILE, RESULTS_FILE, LOG_FILE, "samples.txt"),
    *("*_hypotheses.txt", "*_predictions.tsv", "results.md"),
    *("training_curve.png", "alignment.png"),
)
TARGET_TOKENIZER = "target_tokenizer"

# The number of a job of SLURM, which it keeps when it is requeued.
JOB = "SLURM_JOB_ID"


@dataclasses.dataclass(frozen=True)
class RunStart:
    """How a run starts.

    Attributes:
        folder: the output folder.
        training: the settings, whose resume_from_checkpoint is a path, or None for a run that starts anew.
        batches_per_update: batches of all processes in an update. A resumed run keeps the number that it had.
        data: the fingerprints of the data, for `run.yaml`.
        earlier_data: the fingerprints of the run that is resumed; empty for a new one.
        notes: lines that say what was found.
        changes: sentences for what changed the result when the run was resumed, now or before; empty for one that was
            always resumed as it was.
        finished: says that nothing is left to do; None if there is something.
        replaces: True if files of an earlier run are to be removed.
    """

    folder: Path
    training: TrainingSettings
    batches_per_update: int
    data: dict[str, Fingerprint]
    earlier_data: dict[str, Fingerprint] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    finished: str | None = None
    replaces: bool = False

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint that the run continues from; None for a run that starts anew."""
        name = self.training.resume_from_checkpoint
        return Path(name) if name else None

    def begin(self) -> None:
        """Removes what an earlier run left, if this one replaces it; the main process calls it before it writes."""
        if self.replaces:
            remove_run(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def record(self) -> dict[str, Any]:
        """The entries of `run.yaml` by which a later start recognises the run."""
        changes = {"changes": list(self.changes)} if self.changes else {}
        job = {"job": os.environ[JOB]} if JOB in os.environ else {}
        return {"batches_per_update": self.batches_per_update, "data": self.data} | changes | job

    def check_loaded(self, name: str, splits: Mapping[str, Any]) -> None:
        """Takes the fingerprint of data that has no local files, once it is loaded, and compares it.

        Args:
            name: the setting that names the data.
            splits: the data sets by split.

        Raises:
            ValueError: if the run to resume had other data.
        """
        if self.training.skip_data_check or name in self.data:
            return
        self.data[name] = fingerprint_rows(splits)
        changed = compare_fingerprints(self.earlier_data, {name: self.data[name]})
        if changed and not self.training.accept_changes:
            raise ValueError(Differences(data=changed).message(self.folder))


def plan_run(
    accelerator: Accelerator,
    training: TrainingSettings,
    settings: Sequence[Any],
    fingerprints: Callable[[], Mapping[str, Fingerprint | None]] = dict,
    *,
    is_series: bool = False,
) -> RunStart:
    """Looks at the output folder and decides how the run starts, and says it in a line.

    Args:
        accelerator: every process must call this function; the main process decides for all.
        training: names the folder, and says whether to resume or to overwrite.
        settings: all settings of this run, as dataclasses.
        fingerprints: gives the fingerprints of its data by setting. Names without a file are None and left out.
        is_series: True if the folder holds several runs in sub-folders, which are looked at one by one.

    Raises:
        ValueError: if the folder holds another run, nothing in it can be resumed from, or it has more updates than
            are asked for.
    """

    def plan() -> RunStart:
        taken = {} if training.skip_data_check else fingerprints()
        data = {name: fingerprint for name, fingerprint in taken.items() if fingerprint is not None}
        return _plan(accelerator, training, tuple(settings), data, is_series)

    start = on_main_process(accelerator, plan)
    for note in (*start.notes, *filter(None, [start.finished])):
        accelerator.print(note)
    return start


def finish_run(folder: Path, progress: Progress | None = None, total_updates: int | None = None) -> None:
    """Marks a run as finished; the main process calls it when everything else is written.

    Args:
        folder: the output folder.
        progress, total_updates: how far the run came and how far it was to come; None for a series.
    """
    done: dict[str, Any] = {}
    if progress is not None:
        done = {
            "updates": progress.update,
            "total_updates": total_updates,
            "epochs": progress.epoch,
            "minutes": round(progress.elapsed_seconds / 60, 6),
            "evaluations_without_improvement": progress.evaluations_without_improvement,
        }
    record = (_read_record(folder) or {}) | {"finished": done}
    write_durably(folder / RUN_FILE, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))


def is_finished(folder: Path) -> bool:
    """Whether the folder holds a run that has written everything, its card included."""
    record = _read_record(folder)
    return record is not None and "finished" in record


def remove_run(folder: Path) -> None:
    """Removes the files of a run and of the runs of its series; a user's own files stay."""
    for path in (path for pattern in WEIGHTS for path in folder.glob(pattern)):
        path.unlink()
    # A series has its runs in folders for the variant, the task and the seed.
    for inner in sorted(path for depth in ("*", "*/*", "*/*/*") for path in folder.glob(f"{depth}/{RUN_FILE}")):
        if (_read_record(inner.parent) or {}).get("in_series"):
            remove_run(inner.parent)
            for emptied in (inner.parent, *inner.parent.parents):
                if emptied == folder or any(emptied.iterdir()):
                    break
                emptied.rmdir()
    for checkpoint in all_checkpoints_in(folder):
        remove_folder(checkpoint)
    if (folder / TARGET_TOKENIZER).is_dir():
        shutil.rmtree(folder / TARGET_TOKENIZER)
    for path in _code_of(folder):
        path.unlink(missing_ok=True)
    for path in (path for pattern in FILES for path in folder.glob(pattern)):
        path.unlink()
    (folder / RUN_FILE).unlink(missing_ok=True)


def _code_of(folder: Path) -> list[Path]:
    """The Python files that the model in a folder carries: those that its configuration names, and their imports."""
    try:
        config = yaml.safe_load((folder / "config.json").read_text(encoding="utf-8"))
        names = {reference.partition(".")[0] for reference in (config.get("auto_map") or {}).values() if reference}
        pipelines = {each["impl"].partition(".")[0] for each in (config.get("custom_pipelines") or {}).values()}
    except (OSError, ValueError, AttributeError, TypeError, KeyError, yaml.YAMLError):
        return []
    code = [folder / f"{name}.py" for name in sorted(names | pipelines)]
    present = [path for path in code if path.is_file()]
    with contextlib.suppress(FileNotFoundError):
        present += [Path(name) for path in list(present) for name in get_relative_import_files(path)]
    return list(dict.fromkeys(present))


def _plan(
    accelerator: Accelerator,
    training: TrainingSettings,
    settings: tuple[Any, ...],
    data: dict[str, Fingerprint],
    is_series: bool,
) -> RunStart:
    folder = Path(training.output_dir)
    clean_leftovers(folder)  # a checkpoint that was being replaced gets its name back
    record, checkpoints = _read_record(folder), all_checkpoints_in(folder)
    product = training.gradient_accumulation_steps * accelerator.num_processes
    anew = RunStart(folder, dataclasses.replace(training, resume_from_checkpoint=None), product, data)
    asked = training.resume_from_checkpoint
    if record is None and not checkpoints:
        if asked:
            raise ValueError(
                f"resume_from_checkpoint is set, but output_dir {folder} holds no run. Correct output_dir, or leave "
                "resume_from_checkpoint out: then the run starts, and the same command continues with it later."
            )
        return anew
    if training.overwrite_output_dir and not asked and not _is_restarted(record or {}):
        return dataclasses.replace(anew, replaces=True)
    if record is None:
        notes = [f"Warning: {folder} holds checkpoints but no readable {RUN_FILE}: settings are not compared."]
        return _resume(anew, asked, checkpoints, {}, notes)
    if not (checkpoints or is_series or "finished" in record or _has_weights(folder) or asked):
        return dataclasses.replace(
            anew, replaces=True, notes=(f"The run in {folder} had no checkpoint yet: it starts anew.",)
        )
    differences = find_differences(record, settings, accelerator, data, is_series)
    if not training.accept_changes or differences.fixed:
        differences.refuse(folder)
    if "finished" in record and (is_series or asked in (None, "last")):
        if is_series:
            reason = "all its runs are done"
        else:
            reason = _nothing_left(folder, record["finished"], record["settings"], training)
        if reason is not None:
            again = "To train anew, set --overwrite_output_dir true or name another folder (--output_dir ...)."
            return dataclasses.replace(anew, finished=f"{folder} is finished: {reason}. {again}")
    if training.skip_data_check:
        anew = dataclasses.replace(anew, data=dict(record.get("data") or {}))
    lengths = [] if is_series else length_changes(record["settings"], training)
    anew = dataclasses.replace(anew, changes=(*record.get("changes", ()), *differences.changes(), *lengths))
    if is_series:
        notes = (f"Resuming the runs in {folder}.", *differences.notes())
        return dataclasses.replace(anew, notes=notes, earlier_data=dict(record.get("data") or {}))
    anew = dataclasses.replace(anew, batches_per_update=record.get("batches_per_update", product))
    notes = [*differences.notes(), *lengths]
    return _resume(anew, asked, checkpoints, dict(record.get("data") or {}), notes)


def _resume(
    start: RunStart,
    asked: str | None,
    checkpoints: list[Path],
    earlier_data: dict[str, Fingerprint],
    notes: list[str],
) -> RunStart:
    """The start of a run that resumes from a checkpoint.

    Raises:
        ValueError: if there is none to resume from, or it has more updates than max_steps.
    """
    folder = start.folder
    if asked and asked != "last":
        if not Path(asked).is_dir():
            raise ValueError(f"resume_from_checkpoint is {asked!r}, which is not a folder. Name one, or last.")
        checkpoint = Path(asked)
    elif asked and not checkpoints:
        raise ValueError(
            f"resume_from_checkpoint is last, but {folder} holds no checkpoint. Leave it out to start the run anew."
        )
    elif not checkpoints:
        raise ValueError(
            f"output_dir {folder} holds another run, whose model is trained and whose checkpoints were removed, so it "
            "cannot continue. Replace it (--overwrite_output_dir true), or name another folder (--output_dir ...)."
        )
    else:
        found, damaged = find_good_checkpoint(folder)
        if found is None:
            raise ValueError(
                f"No checkpoint in output_dir {folder} can be resumed from. {' '.join(damaged)} Replace the run "
                "(--overwrite_output_dir true), or name another folder (--output_dir ...)."
            )
        checkpoint, notes = found, [*damaged, *notes]
    limit = start.training.max_steps
    if checkpoint in checkpoints and limit is not None and update_of(checkpoint) > limit:
        raise ValueError(_too_many(folder, update_of(checkpoint), "updates", "max_steps", limit))
    return dataclasses.replace(
        start,
        training=dataclasses.replace(start.training, resume_from_checkpoint=str(checkpoint)),
        earlier_data=earlier_data,
        notes=(f"Resuming the run in {folder} from {checkpoint.name}.", *notes),
    )


def _nothing_left(
    folder: Path, done: Mapping[str, Any], before: Mapping[str, Any], training: TrainingSettings
) -> str | None:
    """Why a finished run has nothing left to do, and what to raise; None if it has, as something was raised.

    Raises:
        ValueError: if it has more updates or epochs than are asked for.
    """
    patience, minutes = training.early_stopping_patience, training.max_train_minutes
    updates, total = done["updates"], done["total_updates"]
    count, without = f"the run has {updates:,} of {total:,} updates", done["evaluations_without_improvement"]
    if training.average_last_checkpoints != before.get("average_last_checkpoints"):
        return None
    if patience is not None and without >= patience:
        return (
            f"{count} and stopped after {counted(without, 'evaluation')} without a better score; raise "
            f"early_stopping_patience, which is {patience}, to continue"
        )
    if minutes is not None and done["minutes"] >= minutes:
        return f"{count} and has used up its {minutes:g} minutes; raise max_train_minutes to continue"
    if training.max_steps is not None:
        if updates > training.max_steps:
            raise ValueError(_too_many(folder, updates, "updates", "max_steps", training.max_steps))
        return None if updates < training.max_steps else f"{count}; raise max_steps to continue"
    epochs, epochs_before = training.num_train_epochs, before.get("num_train_epochs")
    if before.get("max_steps") is not None or epochs_before is None:
        return None if epochs > done["epochs"] else f"{count}; raise num_train_epochs to continue"
    if epochs < epochs_before:
        raise ValueError(_too_many(folder, epochs_before, "epochs", "num_train_epochs", epochs))
    if epochs > epochs_before or updates < total:
        return None
    return f"{count} in {epochs:g} epoch{'' if epochs == 1 else 's'}; raise num_train_epochs to continue"


def _is_restarted(record: Mapping[str, Any]) -> bool:
    """Whether this command, which is not to undo what it has done, was started again.

    `torchrun --max-restarts` does so, and SLURM with a job that it requeues, as after a preemption. A job may have
    several commands, so the run must be that of the job.
    """
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0:
        return True
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0" and record.get("job", "") == os.environ.get(JOB)


def _too_many(folder: Path, has: float, unit: str, setting: str, asked: float) -> str:
    return (
        f"The run in {folder} has {has:g} {unit}, more than {asked:g} ({setting}). Raise {setting} above {has:g} to "
        "continue, replace the run (--overwrite_output_dir true), or name another folder (--output_dir ...)."
    )


def _has_weights(folder: Path) -> bool:
    return any(path for pattern in WEIGHTS for path in folder.glob(pattern))


def _read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a run; None if there is none, or a start that was killed left half of one."""
    try:
        record = read_run_record(folder)
    except (yaml.YAMLError, ValueError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("settings"), dict) else None


def checkpoint_to_resume(settings: TrainingSettings, model: PreTrainedModel) -> Path | None:
    """Returns the checkpoint that resume_from_checkpoint names, or None for a run that starts anew.

    Args:
        settings: the settings of the run.
        model: the model; its weights must have the names and shapes of the checkpoint's.

    Raises:
        ValueError: if there is none, or the one that is named is damaged.
    """
    name = settings.resume_from_checkpoint
    if not name:
        return None
    if name != "last":
        if not Path(name).is_dir():
            raise ValueError(f"resume_from_checkpoint is {name!r}, which is not a folder. Name one, or last.")
        check_checkpoint(Path(name), model)
        return Path(name)
    checkpoint, skipped = find_good_checkpoint(settings.output_dir, model)
    if checkpoint is None:
        reason = " ".join([f"{settings.output_dir} holds no checkpoint to resume from.", *skipped])
        raise ValueError(f"resume_from_checkpoint is last, but {reason}")
    for sentence in skipped:
        logger.warning(sentence)
    return checkpoint

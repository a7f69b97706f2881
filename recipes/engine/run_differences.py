"""Compares a start with the run that it would resume: differences that change the result, and others."""

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from papers_to_gpt.engine.data_fingerprint import Fingerprint, compare_fingerprints
from papers_to_gpt.engine.reporting import describe_machine, flatten_settings
from papers_to_gpt.settings.training import SETTINGS_WITHOUT_EFFECT, TrainingSettings
from papers_to_gpt.settings.wording import counted

# The length of a run. It may not change in a series, whose finished runs keep no checkpoint to resume from.
LENGTH = ("max_steps", "num_train_epochs", "max_train_minutes", "early_stopping_patience")

# Settings that may change when a run is resumed: they decide how long and where it runs, not what it computes.
FREE_ON_RESUME = SETTINGS_WITHOUT_EFFECT.union(
    LENGTH, ("eval_steps", "save_steps", "average_last_checkpoints", "decode_every")
)
# Compared by the precision that results on the machine.
PRECISION = "bf16"
# May change, with a note.
WORKERS = "dataloader_num_workers"

# A checkpoint depends on these settings and cannot be resumed with other values.
FIXED = frozenset(
    """optim gradient_accumulation_steps model_type tokenizer_type share_vocabulary lowercase vocab_size
    decoder_vocab_size num_merges objective""".split()
)
# It also depends on the model's settings, which decide the names and shapes of weights, except those with these words.
NOT_OF_SHAPES = ("dropout", "initializer", "forget_gate_bias")


@dataclasses.dataclass
class Differences:
    """The differences between a start and the run that it would resume.

    Attributes:
        settings: the old and the new value of each setting that differs and changes the result.
        precision: the old and the new precision, if they differ.
        data: a sentence for each part of the data that differs.
        conditions: a sentence for each difference that changes only the rounding of the result.
        fixed: the settings that differ and that a checkpoint depends on.
    """

    settings: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)
    precision: tuple[str, str] | None = None
    data: list[str] = dataclasses.field(default_factory=list)
    conditions: list[str] = dataclasses.field(default_factory=list)
    fixed: list[str] = dataclasses.field(default_factory=list)

    def refuse(self, folder: Path) -> None:
        """Raises ValueError if a difference changes the result."""
        if self.changes():
            raise ValueError(self.message(folder))

    def message(self, folder: Path) -> str:
        """Returns an error message with the differences and what to do."""
        restore = [f"--{name} {_on_command_line(was)}" for name, (was, _) in self.settings.items()]
        if self.precision:
            restore.append(f"--bf16 {'true' if self.precision[0] == 'bf16' else 'false'}")
        ways = [f"Restore it ({' '.join(restore)})"] if restore else []
        if self.data:
            ways.append("restore the data" if ways else "Restore the data")
        if not self.fixed:
            ways.append("accept the change (--accept_changes true)")
        ways += ["replace the run (--overwrite_output_dir true)", "or name another folder (--output_dir ...)"]
        what = "settings" if restore else "data"
        changed = "; ".join(self.changes())
        return (
            f"output_dir {folder} holds another run, which cannot continue with other {what}: {changed}. "
            f"{', '.join(ways)}."
        )

    def changes(self) -> list[str]:
        """Returns the old and the new value of everything that changes the result."""
        changed = [f"{name} was {was!r}, is {now!r}" for name, (was, now) in self.settings.items()]
        if self.precision:
            changed.append("the precision was {}, is {}".format(*self.precision))
        return changed + self.data

    def notes(self) -> list[str]:
        """Returns lines to print if the run is resumed in spite of the differences."""
        lines = []
        if changed := self.changes():
            lines.append(f"Accepted changes: {'; '.join(changed)}.")
        if self.conditions:
            lines.append(
                f"Note: the run continues under other conditions, which may round otherwise: "
                f"{'; '.join(self.conditions)}."
            )
        return lines


def find_differences(
    record: Mapping[str, Any],
    settings: Sequence[Any],
    accelerator: Accelerator,
    data: Mapping[str, Fingerprint],
    is_series: bool = False,
) -> Differences:
    """Compares a start with the record of a run.

    Args:
        record: what `run.yaml` holds.
        settings: all settings of the start.
        accelerator: its precision and machine.
        data: its fingerprints by setting. A setting with the same fingerprint may name another path.
        is_series: True if the length of the runs may not change.
    """
    found = Differences()
    before, now = record["settings"], flatten_settings(tuple(settings))
    earlier_data = record.get("data") or {}
    free = FREE_ON_RESUME.difference(LENGTH if is_series else ()) | {PRECISION}
    defaults = {
        each.name: each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
        for part in settings
        for each in dataclasses.fields(part)
    }
    of_model = {
        each.name for part in settings if getattr(part, "group", None) == "model" for each in dataclasses.fields(part)
    }
    for name, value in now.items():
        was = before.get(name, value if defaults[name] is dataclasses.MISSING else defaults[name])
        if isinstance(value, list) and not isinstance(was, list):  # of a version that took one value
            was = [] if was is None else [was]
        if was == value or name in free:
            continue
        if name in data and name in earlier_data:
            found.conditions.append(f"{name} was {_as_words(was)}, is {_as_words(value)}")
        else:
            found.settings[name] = (was, value)
            if name in FIXED or (name in of_model and not any(word in name for word in NOT_OF_SHAPES)):
                found.fixed.append(name)
    found.data = compare_fingerprints(earlier_data, data)
    machine, machine_now = record.get("machine") or {}, describe_machine(accelerator)
    precisions = [_precision(each.get("mixed_precision")) for each in (machine, machine_now)]
    if "mixed_precision" in machine and precisions[0] != precisions[1]:
        found.precision = (precisions[0], precisions[1])
    conditions = [(name, machine.get(name), machine_now[name]) for name in ("device", "processes", "threads")]
    conditions += [(name, was, _version(name)) for name, was in (record.get("versions") or {}).items()]
    conditions.append((WORKERS, before.get(WORKERS), now.get(WORKERS)))
    found.conditions += [
        f"{name} was {was}, is {value}" for name, was, value in conditions if was not in (None, value)
    ]
    return found


def length_changes(before: Mapping[str, Any], training: TrainingSettings) -> list[str]:
    """Says how long the schedule of the learning rate is now, if it is longer or shorter than before."""
    now = _length(training.max_steps, training.num_train_epochs)
    was = _length(before.get("max_steps"), before.get("num_train_epochs"))
    return [] if was in (None, now) else [f"The schedule is now for {now}; it was for {was}."]


def _length(steps: int | None, epochs: float | None) -> str | None:
    if steps is not None:
        return counted(steps, "update")
    return None if epochs is None else f"{epochs:g} epoch{'' if epochs == 1 else 's'}"


def _version(library: str) -> str | None:
    try:
        return platform.python_version() if library == "python" else version(library)
    except PackageNotFoundError:
        return None


def _precision(name: str | None) -> str:
    return "fp32" if name in (None, "no") else name


def _as_words(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _on_command_line(value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)

"""The settings of a run of a preset: whether they are those that the preset's expected numbers are for."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from papers_to_gpt.settings.arguments import parse_settings, value_of
from papers_to_gpt.settings.commands import command
from papers_to_gpt.settings.expected import Expected, ExpectedNumber, read_numbers
from papers_to_gpt.settings.presets import COMMAND_LINE, EXPECTED, PRESETS, WORDS_FOR_NO_VALUE, Setting
from papers_to_gpt.settings.training import SETTINGS_WITHOUT_EFFECT

# Settings under which every number holds: its tolerance is for seeds and precision, and a run that ends early is
# noticed by its updates.
FREE = SETTINGS_WITHOUT_EFFECT | {"seed", "seeds", "bf16", "max_train_minutes"}
# Settings under which a number holds that names what they lead to: what a run has read is compared, not its name.
FREE_BY_KEY = {
    "data": {"data_dir", "train_file", "validation_file", "test_file"},
    "task": {"task"},
    "starts_from": {"model_name_or_path", "init_from"},
}


def parse_training_settings(
    recipe: str,
    settings: Sequence[Setting],
    *dataclass_types: type,
    description: str = "",
    metrics: Sequence[str] = (),
) -> tuple[Any, ...]:
    """Parses the settings of a recipe that trains, and puts what the preset expects into its training settings.

    Args:
        recipe: its name, such as `train_translation`.
        settings: those of the preset and the command line.
        dataclass_types: the dataclasses of the recipe, one of which has the field `expected`.
        description: what the recipe does, for `--help`.
        metrics: the scores that the recipe can report; empty if they depend on the data.

    Returns:
        One instance of each dataclass.

    Raises:
        ValueError: as `parse_settings`; also if a packaged preset is one of another recipe, or an expected number is
            incomplete or given on the command line.
    """
    asked = [setting for setting in settings if setting.key == EXPECTED]
    others = [setting for setting in settings if setting.key != EXPECTED]
    preset = preset_of(settings)
    if preset is not None and "/" in preset:
        right = recipe_of([setting for setting in settings if setting.origin != COMMAND_LINE])
        if right != recipe:
            raise ValueError(f"The preset {preset} is for {right}, not for {recipe}: {command(right, preset)}")
    given = next((setting for setting in asked if setting.origin == COMMAND_LINE), None)
    if given is not None and [value.lower() for value in given.values] not in ([word] for word in WORDS_FOR_NO_VALUE):
        raise ValueError(
            f"{COMMAND_LINE}: {EXPECTED} is {' '.join(given.values)!r}; on the command line it must be none. A preset "
            "says what is expected."
        )
    numbers = [number for setting in asked for number in read_numbers(setting, metrics)]
    parsed = parse_settings(others, *dataclass_types, description=description)
    if preset is not None and given is None:
        (training,) = (part for part in parsed if hasattr(part, EXPECTED))
        conflicts = [find_conflicts(number, others, dataclass_types, parsed) for number in numbers]
        training.expected = Expected(preset, numbers, conflicts)
    return parsed


def preset_of(settings: Sequence[Setting]) -> str | None:
    """Returns the name of the preset that the first of the settings come from; None if they come from no preset."""
    for setting in settings:
        path = Path(setting.origin.rpartition(":")[0])
        if path.is_file():
            packaged = path.resolve().is_relative_to(PRESETS)
            return path.resolve().relative_to(PRESETS).with_suffix("").as_posix() if packaged else path.name
    return None


def recipe_of(settings: Sequence[Setting]) -> str:
    """Returns the recipe of a preset: those of fine-tuning name a model, those of translators a model_type."""
    if value_of(settings, "model_name_or_path") is not None:
        return "finetune_gpt1"
    return "pretrain_gpt1" if value_of(settings, "model_type") is None else "train_translation"


def find_conflicts(
    number: ExpectedNumber, settings: Sequence[Setting], dataclass_types: Sequence[type], parsed: Sequence[Any]
) -> list[str]:
    """Returns the settings that differ from those that a number is for and change the result, as text.

    Args:
        number: the number.
        settings: the settings of the preset and the command line.
        dataclass_types: what they are parsed to.
        parsed: what they were parsed to.
    """
    free = FREE.union(*(names for key, names in FREE_BY_KEY.items() if getattr(number, key) is not None))
    measured = number.given_with()
    on_command_line = {each.key.removeprefix("no_") for each in settings if each.origin == COMMAND_LINE}
    compared = (on_command_line | measured.keys()) - free
    now = {each.name: getattr(part, each.name) for part in parsed for each in dataclasses.fields(part)}
    conflicts = [f"{name} is not set" for name, values in measured.items() if not values and not now.get(name)]
    compared -= {name for name, values in measured.items() if not values}
    if not compared:
        return conflicts
    kept = [each for each in settings if each.origin != COMMAND_LINE or each.key.removeprefix("no_") in free]
    kept += [Setting(name, values, COMMAND_LINE) for name, values in measured.items() if values]
    try:
        baseline = {
            name: value for part in parse_settings(kept, *dataclass_types) for name, value in vars(part).items()
        }
    except ValueError:  # the settings of the command line are needed, as for other data
        return conflicts + [f"{name} is {_shown(now.get(name))}" for name in sorted(compared)]
    return conflicts + [
        f"{name} is {_shown(now.get(name))}, not {_shown(baseline.get(name))}"
        for name in sorted(compared)
        if now.get(name) != baseline.get(name)
    ]


def _shown(value: Any) -> str:
    """A value as on a command line, without folders, which are nobody else's business."""
    if value is None or value == []:
        return "none"
    words = [str(each).lower() if isinstance(each, bool) else str(each) for each in _as_list(value)]
    return " ".join(os.path.basename(word.rstrip(os.sep)) for word in words)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]

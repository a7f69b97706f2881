"""The names of embedded data sets and tasks, read from the packages' registries without importing the packages.

Importing a package imports torch, which takes seconds. The registries import only the standard library, so that their
files can be run by themselves, and `--help` and wrong settings are answered at once.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

PAIRS = "seq2seq_scratch.data.embedded"
TEXTS = "gpt1_scratch.pretraining.embedded"
TASKS = "gpt1_scratch.finetuning.tasks"


def registry(name: str) -> ModuleType:
    """Returns a module of a package: the imported one if there is one, otherwise what its file alone defines."""
    if name in sys.modules:
        return sys.modules[name]
    package, *parts = name.split(".")
    folder = Path(importlib.util.find_spec(package).submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location(f"{__name__}.{name}", folder.joinpath(*parts).with_suffix(".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def task_names() -> tuple[str, ...]:
    """Returns the names of all tasks that GPT-1 can be fine-tuned on."""
    return tuple(registry(TASKS).TASKS)


def glue_tasks() -> tuple[str, ...]:
    """Returns the names of the tasks that GLUE's leaderboard scores."""
    return tuple(name for name, task in registry(TASKS).TASKS.items() if task.submissions)


def groups_of_tasks() -> dict[str, tuple[str, ...]]:
    """Returns the names of the embedded tasks by the name of their group."""
    groups: dict[str, tuple[str, ...]] = {}
    for name, task in registry(TASKS).TASKS.items():
        if task.embedded is not None:
            groups[task.embedded.group] = (*groups.get(task.embedded.group, ()), name)
    return groups


def embedded_pairs() -> tuple[str, ...]:
    """Returns the names of the embedded parallel data sets."""
    return tuple(registry(PAIRS).EMBEDDED_PAIRS)


def embedded_texts() -> tuple[str, ...]:
    """Returns the names of the embedded text data sets."""
    return tuple(registry(TEXTS).EMBEDDED_TEXTS)


def quoted(names: tuple[str, ...]) -> str:
    """Returns names for a help text: `a`, `b`."""
    return ", ".join(f"`{name}`" for name in names)

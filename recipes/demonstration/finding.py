"""Finds the trained models that a page offers, and says what each is."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gpt1_scratch  # noqa: F401  registers the models
import seq2seq_scratch  # noqa: F401  registers the models
from papers_to_gpt.demonstration import sources
from papers_to_gpt.demonstration.classifying import names_of_texts
from papers_to_gpt.engine.checkpointing import checkpoints_in, name_with_run
from papers_to_gpt.engine.model_folder import (
    CLASSIFIER,
    LANGUAGE_MODEL,
    TRANSLATOR,
    Kind,
    check_folder,
    read_json,
)
from papers_to_gpt.publishing.model_card import Run, read_run
from papers_to_gpt.settings.commands import command

logger = logging.getLogger(__name__)

KINDS = (TRANSLATOR, CLASSIFIER, LANGUAGE_MODEL)

# How far below the folder of models a model may lie: runs/numbers_bahdanau and runs/papers/models/reversed_1.
DEPTH = 3


@dataclass(frozen=True)
class FoundModel:
    """A trained model that has not been loaded.

    Attributes:
        name: the name on the page; no other model has it.
        folder: where it is.
        kind: what it is: a translator, a classifier or a language model.
        config: the content of config.json.
        run: the records of its training.
    """

    name: str
    folder: Path
    kind: Kind
    config: dict[str, Any] = field(repr=False)
    run: Run = field(repr=False)


def find_models(names: Sequence[str], models_dir: str) -> list[FoundModel]:
    """Returns the models that the user names or, if there are none, those of a folder.

    A run that has not ended is represented by its last checkpoint. A folder in `models_dir` whose model cannot be
    loaded is left out with a warning.

    Args:
        names: folders of models.
        models_dir: the folder whose models are taken if no model is named.

    Raises:
        ValueError: if a named folder holds no model that the page can use, or there is no model in `models_dir`.
    """
    if names:
        folders = [(str(name), _folder_of(Path(name))) for name in dict.fromkeys(names)]
        shown = _short_names([name for name, _ in folders])
        return [_read(short, folder) for short, (_, folder) in zip(shown, folders, strict=True)]
    root = Path(models_dir)
    train = command("train_translation", "numbers/bahdanau")
    if not root.is_dir():
        raise ValueError(
            f"There is no folder {root} (models_dir). Name the folders of trained models, or train one: {train}"
        )
    found = []
    for folder in _model_folders(root, DEPTH):
        place = folder.relative_to(root).as_posix()
        try:
            found.append(_read(place if "/" in place else name_with_run(folder), folder))
        except (OSError, ValueError) as error:
            logger.warning("%s is left out: %s", folder, error)
    if not found:
        raise ValueError(
            f"The folder {root} (models_dir) has no trained model that can be loaded. Name the folders of "
            f"trained models, or train one: {train}"
        )
    return found


def _short_names(names: Sequence[str]) -> list[str]:
    """Returns the last part of each path, with the run of a checkpoint, or the whole path if two have the same."""
    last = [name_with_run(name) for name in names]
    return [short if last.count(short) == 1 else name for short, name in zip(last, names, strict=True)]


def _folder_of(path: Path) -> Path:
    """Returns the folder of a model, which is the last checkpoint for a run that has not ended.

    Raises:
        ValueError: if there is no such folder.
    """
    if not path.exists():
        raise ValueError(
            f"There is no folder {path}. Name the output_dir of a run, or one of its checkpoints. The page works "
            "without a network: a model of the Hub must be downloaded first."
        )
    return next(_model_folders(path, 0), path) if path.is_dir() else path


def _model_folders(folder: Path, depth: int) -> Iterator[Path]:
    """Yields the folders with a model, but no checkpoint of a run that has a model itself.

    A folder that may not be read is left out with a warning.
    """
    try:
        found, below = _look_into(folder)
    except OSError as error:
        logger.warning("%s is left out: %s", folder, error)
        return
    if found is not None:
        yield found
    elif depth:
        for path in below:
            yield from _model_folders(path, depth - 1)


def _look_into(folder: Path) -> tuple[Path | None, list[Path]]:
    """Returns the folder with the model of a run, None if it has none, and the folders in which models may be."""
    if (folder / "config.json").is_file():
        return folder, []
    checkpoints = [path for path in checkpoints_in(folder) if (path / "config.json").is_file()]
    if checkpoints:
        return checkpoints[-1], []
    return None, sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read(name: str, folder: Path) -> FoundModel:
    """Returns the model of a folder, of which everything is known that the page says about it.

    Raises:
        ValueError: if it cannot be loaded, the page cannot use it, or its files are damaged.
    """
    try:
        found = _read_files(name, folder)
        sources.describe(found)
        if found.kind is CLASSIFIER:
            names_of_texts(found.config)
    except (AttributeError, KeyError, TypeError) as error:  # an entry is missing or of another kind
        raise ValueError(
            f"{folder}: config.json, or a record of the run beside it, is not as this project writes it "
            f"({type(error).__name__}: {error}). Copy the folder again from where the model was trained."
        ) from error
    return found


def _read_files(name: str, folder: Path) -> FoundModel:
    check_folder(str(folder), kinds=KINDS)
    config = read_json(folder / "config.json")
    kind = next((kind for kind in KINDS if kind.holds(config)), None)
    if kind is None:
        what = (config.get("architectures") or [config.get("model_type")])[0]
        raise ValueError(
            f"{folder} holds a {what}, which the page cannot use. It offers {TRANSLATOR.name}, {LANGUAGE_MODEL.name} "
            f"and {CLASSIFIER.name}."
        )
    if kind is CLASSIFIER and not isinstance(config.get("finetuning_task"), dict):
        raise ValueError(f"{folder} is not fine-tuned for a task. Fine-tune it first: {command('finetune_gpt1')}")
    return FoundModel(name, folder, kind, config, read_run(folder))

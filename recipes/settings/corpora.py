"""Settings that name several files: training corpora with their weights, and test sets."""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from papers_to_gpt.settings.wording import counted

# The weights under which an epoch has every row of every corpus once.
PROPORTIONAL = "proportional"

TRAIN_WEIGHTS_HELP = (
    "Weights of the files of train_file, one for each: the number of times that an epoch reads their rows; a stream "
    "draws its examples in these proportions. Left out or `proportional`, every row is read once in an epoch."
)

# Endings of tables and of compressed files, which the names of corpora and test sets leave out.
ENDINGS = re.compile(r"\.(?:parquet|jsonl|ndjson|json|csv|tsv|txt|text|md|gz|xz|zst)$", re.IGNORECASE)


def check_corpora(data: Any) -> None:
    """Checks train_file and train_weights, and writes the weights in one form, so that records can be compared.

    Args:
        data: settings with `train_file`, `train_weights` and `dataset_name`.

    Raises:
        ValueError: if a file is named twice, or the weights do not fit the files.
    """
    refuse_same_file(data.train_file, "train_file")
    if data.train_weights == [PROPORTIONAL]:
        data.train_weights = []
    given = " ".join(data.train_weights)
    if data.train_weights and not data.train_file:
        reason = "no train_file is set" if data.dataset_name is None else f"dataset_name is {data.dataset_name!r}"
        raise ValueError(
            f"train_weights is {given}, but {reason}: weights belong to the files of train_file. Leave it out."
        )
    if data.train_weights and len(data.train_weights) != len(data.train_file):
        raise ValueError(
            f"train_weights has {counted(len(data.train_weights), 'weight')} ({given}), but train_file has "
            f"{counted(len(data.train_file), 'file')} ({' '.join(data.train_file)}). Give one weight for each file, "
            f"in their order, or leave train_weights out ({PROPORTIONAL})."
        )
    data.train_weights = [_checked_weight(weight) for weight in data.train_weights]


def check_test_sets(data: Any) -> None:
    """Checks test_file and reference_columns.

    Args:
        data: settings with these, `target_column`, `target_language` and `dataset_name`.

    Raises:
        ValueError: if a file or a reference is named twice, or there is no test set for the references.
    """
    refuse_same_file(data.test_file, "test_file")
    target = data.target_column or data.target_language
    for place, column in enumerate(data.reference_columns):
        if column in (target, *data.reference_columns[:place]):
            what = "is the target's column" if column == target else "comes twice"
            raise ValueError(f"reference_columns names {column}, which {what}. Name each further reference once.")
    if data.reference_columns and not (data.test_file or data.dataset_name):
        raise ValueError("reference_columns is set, but there is no test set. Set test_file, or leave it out.")


def weights_of(data: Any) -> list[float] | None:
    """Returns the weights of the training corpora; None if every row is read once in an epoch."""
    return [float(weight) for weight in data.train_weights] or None


def refuse_no_file(file: str | None, setting: str) -> None:
    """Raises ValueError if a file that is written after a long measurement is set and cannot be written then."""
    if file is not None and Path(file).is_dir():
        raise ValueError(f"{setting} is {file}, which is a folder. Name a file in it.")
    if file is not None and not Path(file).parent.is_dir():
        raise ValueError(f"{setting} is {file}, but there is no folder {Path(file).parent}. Make it, or name another.")


def refuse_same_file(files: Sequence[str], setting: str) -> None:
    """Raises ValueError if a setting names the same file twice, under one name or under two."""
    first: dict[str, str] = {}
    for name in files:
        path = os.path.realpath(name)
        if path in first:
            also = "" if first[path] == name else f" and as {first[path]}"
            raise ValueError(f"{setting} names {name} twice{also}. Name each file once{_hint(setting)}.")
        first[path] = name


def _hint(setting: str) -> str:
    return "; train_weights repeats a file" if setting == "train_file" else ""


def names_of_files(files: Sequence[str]) -> list[str]:
    """Returns a name for each of several files, without folders, endings of tables and special characters.

    A name that comes again is followed by a number: `a/test.tsv` and `b/test.tsv` are `test` and `test_2`.
    """
    names: list[str] = []
    for file in files:
        name = Path(file).name
        while ENDINGS.search(name):
            name = ENDINGS.sub("", name)
        name = re.sub(r"[^\w-]+", "_", name).strip("_") or "file"
        taken, number = name, 2
        while taken in names:
            taken, number = f"{name}_{number}", number + 1
        names.append(taken)
    return names


def _checked_weight(weight: str) -> str:
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ValueError(
            f"train_weights has {weight}; a weight must be a finite number above 0. Leave out a file that is not to "
            f"be read, or set train_weights {PROPORTIONAL}."
        )
    return repr(number).removesuffix(".0")

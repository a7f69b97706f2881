"""Reads and writes the labels of texts to which any number may apply: lists of labels, or columns of 0 and 1."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.visible_text import has_visible_text
from .tables import Table, name_rows
from .tasks import LABEL_SEPARATOR, THRESHOLD, Task

# How a label column of 0 and 1 may be written; programs also write 1.0 and true.
MARKS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}

# What a column holds in every row if the labels are not known.
UNKNOWN = (None, "", -1, "-1")


def holds_lists(values: Sequence[Any]) -> bool:
    return any(isinstance(value, list) for value in values)


def read_label_sets(table: Table, column: str, label_columns: Sequence[str] = ()) -> list[tuple[Any, ...]] | None:
    """Returns the labels of each row; None if no row has any, as in a test file without labels.

    Args:
        table: the table to read.
        column: the column of lists of labels. A cell of text has labels with `|` between them, and an empty one none.
        label_columns: columns of 0 and 1, to be read in its place; the labels are their names.

    Raises:
        ValueError: if a row has no list and another does, a list holds something that is no label or 0 and 1 for every
            label, or a label column holds something other than 0 and 1.
    """
    rows = _read_columns(table, label_columns) if label_columns else _read_lists(table, column)
    return rows if rows is not None and any(rows) else None


def _read_columns(table: Table, names: Sequence[str]) -> list[tuple[str, ...]] | None:
    columns = {name: table.values(name) for name in names}
    if all(value in UNKNOWN for values in columns.values() for value in values):
        return None
    marks = []
    for name, values in columns.items():
        found = [MARKS.get(str(value).strip().lower()) for value in values]
        wrong = [index for index, mark in enumerate(found) if mark is None]
        if wrong:
            raise ValueError(
                f"{table.where}: the label column {name!r} is {values[wrong[0]]!r} in {name_rows(wrong)}; it must be "
                "0 or 1 in every row."
            )
        marks.append(found)
    return [tuple(name for name, mark in zip(names, row, strict=True) if mark) for row in zip(*marks, strict=True)]


def _read_lists(table: Table, column: str) -> list[tuple[Any, ...]] | None:
    values, where = table.values(column), f"{table.where}: the label ({column})"
    if all(value is None for value in values):
        return None
    missing = [index for index, value in enumerate(values) if value is None]
    if missing:
        raise ValueError(f"{where} is missing in {name_rows(missing)}. A text without a label has an empty list.")
    if holds_lists(values):
        single = [index for index, value in enumerate(values) if not isinstance(value, list)]
        if single:
            raise ValueError(
                f"{where} is {values[single[0]]!r}, not a list, in {name_rows(single)}, but a list in other rows. "
                "Make every label a list."
            )
    else:
        as_text = [index for index, value in enumerate(values) if re.fullmatch(r"\s*\[.*\]\s*", str(value))]
        if as_text:
            raise ValueError(
                f"{where} is a list written as text in {name_rows(as_text)}: {values[as_text[0]]!r}. Write the labels "
                f"of a row with {LABEL_SEPARATOR!r} between them, or use a JSON or parquet file with lists."
            )
        values = [_split(value) for value in values]
    wrong = [index for index, row in enumerate(values) if not all(map(_is_label, row))]
    if wrong:
        raise ValueError(
            f"{where} holds {next(label for label in values[wrong[0]] if not _is_label(label))!r} in "
            f"{name_rows(wrong)}; every label must be text or a number, and not empty."
        )
    if _are_marks(values):
        raise ValueError(
            f"{where} is {len(values[0])} numbers 0 and 1 in every row, which do not name the labels. Put the labels "
            "that apply into the lists, or give each label a column of 0 and 1 and set label_columns."
        )
    return [tuple(row) for row in values]


def _are_marks(rows: Sequence[list[Any]]) -> bool:
    """Returns True if each row says of each label whether it applies. A row of labels would not repeat one."""
    return (
        len(set(map(len, rows))) == 1
        and all(str(label).strip().lower() in MARKS for row in rows for label in row)
        and any(len(set(row)) < len(row) for row in rows)
    )


def _split(value: Any) -> list[Any]:
    if not isinstance(value, str):
        return [value]
    return [part.strip() for part in value.split(LABEL_SEPARATOR)] if has_visible_text(value) else []


def _is_label(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and has_visible_text(value))


def rarest_labels(labels: Sequence[tuple[int, ...]]) -> list[int]:
    """Returns for each row the rarest of its labels, -1 for a row without labels. It stands for the row's class."""
    counts: dict[int, int] = {}
    for row in labels:
        for label in row:
            counts[label] = counts.get(label, 0) + 1
    return [min(row, key=lambda label: (counts[label], label), default=-1) for row in labels]


def applies(logits: np.ndarray) -> np.ndarray:
    """Returns for each example and label 1 if the label's probability is above the threshold, otherwise 0."""
    return (logits > np.log(THRESHOLD / (1 - THRESHOLD))).astype(np.int64)


def join_labels(task: Task, row: np.ndarray) -> str:
    """Returns the names of the labels that apply, with the separator between them; empty text if none does."""
    return LABEL_SEPARATOR.join(task.labels[number] for number in np.flatnonzero(row))

"""Infers the task of a user's table: its text columns, its label column and the kind of its labels."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from ..data.visible_text import has_visible_text
from .label_sets import holds_lists, read_label_sets
from .tables import Table, name_rows
from .tasks import LABEL_SEPARATOR, MULTI_LABEL, OWN, Task, name_classes

# The names of columns that are looked for, in this order.
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "score", "rating")

PAIRS_OF_COLUMNS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("text1", "text2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question1", "question2"),
)

SINGLE_COLUMNS = ("text", "sentence", "review", "content")

ROWS_LOOKED_AT = 100

# A decimal number as people write it; programs may also write 1e-05. `float` would accept 1_000, 007, inf and digits
# of other scripts too, but as labels these are names of classes.
PLAIN_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

SMALL_NUMBER = re.compile(r"-?[1-9](\.[0-9]+)?[eE]-[0-9]+")

WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.0+)?")

NO_NUMBER = ("nan", "inf", "-inf", "infinity", "-infinity")

DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ]\d{1,2}:\d{2}.*)?")

# More different whole numbers with a decimal point than this are numbers to predict, not classes.
MOST_CLASSES_OF_FLOATS = 20

# What to do if labels with the separator were meant as several labels.
HOW_TO_DIVIDE = (
    f"If {LABEL_SEPARATOR!r} separates the labels of a text, of which a text may have none, set problem_type to "
    f"{MULTI_LABEL}."
)

# More classes than this, of which most have a single row, are ids.
MOST_CLASSES_OF_SINGLE_ROWS = 20


@dataclass(frozen=True)
class ColumnOverrides:
    """The user's settings for their own files; None is inferred from the file."""

    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    label_columns: tuple[str, ...] | None = None
    problem_type: Literal["classification", "regression", "multi_label_classification"] | None = None
    both_orders: bool | None = None


def infer_task(table: Table, columns: ColumnOverrides) -> Task:
    """Infers the task of a user's table: its columns, classification or regression, and the classes.

    The task is a regression if all labels are plain decimal numbers and one of them has a fraction, or more than 20
    different ones are written with a decimal point. Other labels are names of classes, written as in the file, except
    that 0.0 is the class 0. A pair of texts with a number is a similarity, which does not depend on the order.

    Any number of labels may apply to a text if they are lists, which JSON and parquet files have, or columns of 0 and
    1 (`label_columns`). In CSV and TSV files a cell has the labels with `|` between them, and none if it is empty;
    problem_type says that it does.

    Raises:
        ValueError: if a named column does not exist, the columns cannot be inferred, labels are missing, or they
            contradict problem_type.
    """
    if columns.label_columns:
        return _task_of_label_columns(table, columns)
    label_column = columns.label_column
    if label_column is None:
        lowered = {name.lower(): name for name in reversed(table.names)}
        label_column = next((lowered[name] for name in LABEL_COLUMNS if name in lowered), None)
        if label_column is None:
            raise ValueError(
                f"{table.where}: no column is called {' or '.join(LABEL_COLUMNS[:3])}; it has "
                f"{name_classes(table.names)}. Set label_column."
            )
    check_columns(table, [label_column], "label_column")
    texts = _text_columns(table, columns, label_column)
    is_multi_label = columns.problem_type == MULTI_LABEL
    if is_multi_label or (columns.problem_type is None and holds_lists(table.values(label_column))):
        sets = read_label_sets(table, label_column)
        if sets is None:
            raise ValueError(f"{table.where}: there is no label in the column {label_column!r}.")
        labels = [(index, label) for index, row in enumerate(sets) for label in row]
        names = table.class_names(label_column) or _names_in_sets(table, label_column, labels)
        return _multi_label_task(table, columns, texts, names, label_column=label_column)
    values = read_labels_of_table(table, label_column)
    if values is None:
        raise ValueError(f"{table.where}: there is no label in the column {label_column!r}.")
    if columns.problem_type is None:
        regression = _are_numbers(values)
    else:
        regression = columns.problem_type == "regression"
    names = None
    if not regression:
        names = tuple(table.class_names(label_column) or _class_names(table, label_column, values))
        _check_for_ids(table, columns, label_column, values)
    return Task(
        OWN,
        _kind(columns, texts, default=regression and len(texts) == 2),
        texts,
        names,
        ("pearson", "spearmanr") if regression else ("accuracy", "f1_macro"),
        label_column=label_column,
    )


def _kind(columns: ColumnOverrides, texts: Sequence[str], default: bool = False) -> str:
    both_orders = default if columns.both_orders is None else columns.both_orders
    if both_orders and len(texts) != 2:
        raise ValueError(f"both_orders is set, but there is one text column, {texts[0]}. Set text_pair_column.")
    return "similarity" if both_orders else "classification"


def _multi_label_task(
    table: Table, columns: ColumnOverrides, texts: tuple[str, ...], names: Sequence[str], **labels: Any
) -> Task:
    if len(names) == 1:
        raise ValueError(
            f"{table.where}: there is one label, {names[0]}, so a text is of one of two classes: set label_column "
            "to a column that says which, of 0 and 1 for example."
        )
    metrics = ("f1_micro", "f1_macro")
    return Task(OWN, _kind(columns, texts), texts, tuple(names), metrics, is_multi_label=True, **labels)


def _task_of_label_columns(table: Table, columns: ColumnOverrides) -> Task:
    names = columns.label_columns
    if columns.label_column is not None:
        raise ValueError(
            f"label_column is {columns.label_column!r} and label_columns is {name_classes(names)}. Set one of them."
        )
    if columns.problem_type not in (None, MULTI_LABEL):
        raise ValueError(
            f"label_columns is set, so any of the labels may apply, but problem_type is {columns.problem_type}. Leave "
            "one out."
        )
    if len(set(names)) < len(names):
        raise ValueError(f"label_columns names a column twice: {', '.join(names)}. Name each once.")
    check_columns(table, names, "label_columns")
    broken = [name for name in names if LABEL_SEPARATOR in name]
    if broken:
        raise ValueError(f"{table.where}: {_separator_in(broken[0])}: rename the column.")
    texts = _text_columns(table, columns, *names)
    return _multi_label_task(table, columns, texts, names, label_columns=tuple(names))


def check_columns(table: Table, names: Sequence[str], setting: str) -> None:
    missing = [name for name in names if name not in table.names]
    if missing:
        raise ValueError(
            f"{table.where}: there is no column {' and no '.join(map(repr, missing))} ({setting}); it has "
            f"{name_classes(table.names)}."
        )


def _text_columns(table: Table, columns: ColumnOverrides, *label_columns: str) -> tuple[str, ...]:
    named = {"text_column": columns.text_column, "text_pair_column": columns.text_pair_column}
    for setting, name in named.items():
        if name is not None:
            check_columns(table, [name], setting)
            if name in label_columns:
                label = "label_columns" if columns.label_columns else "label_column"
                raise ValueError(f"{setting} and {label} are both {name!r}: the label cannot be the text.")
    if columns.text_column is not None:
        return tuple(name for name in named.values() if name is not None)
    if columns.text_pair_column is not None:
        raise ValueError("text_pair_column is set, but text_column is not.")
    found = [name for name in table.names if name not in label_columns and _looks_like_text(table.values(name))]
    if len(found) > 1:
        # If another column holds text, columns of row names, ids and dates are not text, and of one value only by
        # their name.
        paired = set(chain.from_iterable(PAIRS_OF_COLUMNS))
        found = [
            name
            for name in found
            if not table.is_index(name)
            and not _look_like_ids(table.values(name))
            and (name.lower() in paired or not _is_constant(table.values(name)))
        ] or found
    if len(found) > 2:
        lowered = {name.lower(): name for name in found}
        for known in (*PAIRS_OF_COLUMNS, *((name,) for name in SINGLE_COLUMNS)):
            if all(name in lowered for name in known):
                return tuple(lowered[name] for name in known)
    if not 1 <= len(found) <= 2:
        what = f"several columns hold text ({name_classes(found)})" if found else "no column holds text"
        others = [name for name in table.names if name not in label_columns]
        nearly = [note for name in others if (note := _where_not_text(name, table.values(name)))]
        raise ValueError(
            f"{table.where}: {what}; it has {name_classes(table.names)}. {''.join(nearly[:1])}Set text_column and, "
            "for a pair, text_pair_column."
        )
    return tuple(found)


def _where_not_text(name: str, values: Sequence[Any]) -> str:
    """Returns a sentence on the first row in which a column with text holds something else; empty if there is none."""
    some = values[:ROWS_LOOKED_AT]
    other = next((i for i, value in enumerate(some) if value is not None and not isinstance(value, str)), None)
    if other is None or not any(isinstance(value, str) for value in some):
        return ""
    return f"The column {name!r} holds {type(some[other]).__name__} in {name_rows([other])}, which is not text. "


def _looks_like_text(values: Sequence[Any]) -> bool:
    some = [value for value in values[:ROWS_LOOKED_AT] if value is not None]
    return (
        bool(some)
        and all(isinstance(value, str) for value in some)
        and not all(PLAIN_NUMBER.fullmatch(value.strip()) for value in some)
    )


def _look_like_ids(values: Sequence[str | None]) -> bool:
    """Returns True if all values are dates, or all differ and have digits and no spaces."""
    values = [value.strip() for value in values if value is not None and value.strip()]
    if all(DATE.fullmatch(value) for value in values):
        return True
    return len(set(values)) == len(values) and all(
        not re.search(r"\s", value) and re.search(r"\d", value) for value in values
    )


def _is_constant(values: Sequence[str | None]) -> bool:
    return len(values) > 1 and len(set(values)) == 1


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not has_visible_text(value)) or (value != value)


def name_class(value: Any) -> str:
    """Returns a label as the name of a class: as it is written, but 1.0 becomes 1."""
    name = str(value).strip()
    return name.partition(".")[0] if WHOLE_NUMBER.fullmatch(name) else name


def _are_numbers(values: Sequence[Any]) -> bool:
    """Returns True if labels are numbers to predict rather than names of classes."""
    if any(isinstance(value, bool) for value in values):
        return False
    # A value of type float is formatted without an exponent.
    names = {f"{value:.17f}" if isinstance(value, float) else str(value).strip() for value in values}
    # "nan" may be a missing number, or one of the names of classes.
    numbers = {name for name in names if name.lower() not in NO_NUMBER}
    plain = {name for name in numbers if PLAIN_NUMBER.fullmatch(name)}
    if not plain or not all(SMALL_NUMBER.fullmatch(name) for name in numbers - plain):
        return False
    if any(not WHOLE_NUMBER.fullmatch(name) for name in plain):
        return True
    return sum("." in name for name in numbers) > MOST_CLASSES_OF_FLOATS


def _separator_in(name: str) -> str:
    return f"the label {name!r} has {LABEL_SEPARATOR!r}, which separates the labels of a text in predictions"


def _names_in_sets(table: Table, column: str, labels: Sequence[tuple[int, Any]]) -> list[str]:
    """Returns the sorted names of the labels.

    Args:
        table, column: for messages.
        labels: rows and labels of the rows.

    Raises:
        ValueError: if a name has a line break, a tab or the separator of labels.
    """
    for index, label in labels:
        if LABEL_SEPARATOR in name_class(label):
            raise ValueError(f"{table.where}: {_separator_in(label)} ({name_rows([index])}). Rename it.")
    return _class_names(table, column, [label for _, label in labels], [index for index, _ in labels])


def _class_names(table: Table, column: str, values: Sequence[Any], rows: Sequence[int] | None = None) -> list[str]:
    """Returns the sorted names of the classes; integers are sorted as numbers.

    Args:
        table, column: for messages.
        values: the labels.
        rows: the row of each label. Default: every row has one.

    Raises:
        ValueError: if a name has a line break or a tab.
    """
    names = set(map(name_class, values))
    broken = [index for index, value in enumerate(values) if re.search(r"[\n\r\t]", name_class(value))]
    if broken:
        named = broken if rows is None else [rows[index] for index in broken]
        raise ValueError(
            f"{table.where}: the label ({column}) holds a line break or a tab in {name_rows(named)}: "
            f"{name_class(values[broken[0]])!r}. Predictions are written in lines and columns: rename the class."
        )
    return sorted(names, key=int if all(WHOLE_NUMBER.fullmatch(name) for name in names) else str)


def _check_for_ids(table: Table, columns: ColumnOverrides, label_column: str, values: Sequence[Any]) -> None:
    counts = Counter(map(name_class, values))
    single = sum(count == 1 for count in counts.values())
    if columns.problem_type is None and single > max(MOST_CLASSES_OF_SINGLE_ROWS, len(values) / 2):
        raise ValueError(
            f"{table.where}: there are {len(counts):,} different labels in {len(values):,} rows: is {label_column} a "
            "column of ids? Set label_column to another, or problem_type to classification (or regression) if it is "
            "the label."
        )


def parse_number(value: Any) -> float:
    if isinstance(value, str) and not NUMBER.fullmatch(value.strip()):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def read_labels_of_table(table: Table, column: str, skip_unlabelled: bool = False) -> list[Any] | None:
    """Returns a column of labels; None if it has no label at all.

    Raises:
        ValueError: if labels are lists or objects, or some are missing and may not be skipped.
    """
    values = table.values(column)
    # A split without labels has nothing in this column, or -1 in every row.
    if all(_is_missing(value) or value in (-1, "-1") for value in values):
        return None
    for kind, name in ((list, "a list"), (dict, "an object")):
        wrong = [index for index, value in enumerate(values) if isinstance(value, kind)]
        if wrong:
            raise ValueError(
                f"{table.where}: the label ({column}) is {name} in {name_rows(wrong)}; it must be one class or number "
                "for each text."
            )
    if skip_unlabelled:
        return [None if _is_missing(value) or value in (-1, "-1", "-") else value for value in values]
    missing = [index for index, value in enumerate(values) if _is_missing(value)]
    if missing:
        hint = f" {HOW_TO_DIVIDE}" if any(LABEL_SEPARATOR in str(value) for value in values) else ""
        raise ValueError(
            f"{table.where}: the label ({column}) is missing or not a number in {name_rows(missing)}. Fill it in, or "
            f"leave these rows out.{hint}"
        )
    return values

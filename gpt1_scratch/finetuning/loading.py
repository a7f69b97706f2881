"""Loads the examples of a task from files, a folder or the Hub, or generates them, and checks every row.

The splits of every task are lists of texts and labels:

    task, splits = load_task("cola", data_dir="glue")
    splits["train"].texts[0], splits["train"].labels[0]
"""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from ..data.hub_data import explain_loading_errors
from ..data.visible_text import has_visible_text
from ..data.wording import counted
from ..renamed.hook import warn
from .held_out import count_rows, hold_out
from .inference import (
    HOW_TO_DIVIDE,
    ColumnOverrides,
    check_columns,
    infer_task,
    name_class,
    parse_number,
    read_labels_of_table,
)
from .label_sets import read_label_sets
from .tables import Table, name_rows, read_table
from .tasks import LABEL_SEPARATOR, OWN, TASKS, Task, find_task, name_classes

# Maximum number of characters of a text in the example row that is printed.
EXAMPLE_LENGTH = 60


@dataclass(frozen=True)
class TaskSplit:
    """Examples of one split.

    Attributes:
        texts: the texts of each example: one, or the two of a pair; in multiple choice, the context and the choices.
        labels: the label of each example: the number of its class, the numbers of its classes if there may be several,
            the index of its correct choice, or the number to predict. None for a split without labels.
        notes: sentences about rows that were left out or look wrong.
    """

    texts: list[tuple[str, ...]]
    labels: list[int] | list[tuple[int, ...]] | list[float] | None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def spread(self, count: int) -> "TaskSplit":
        """Returns `count` examples at even distances, or all if there are fewer.

        The first ones might be all of one class, in a file that is sorted by class.
        """
        if count >= len(self):
            return self
        rows = [place * len(self) // count for place in range(count)]
        labels = None if self.labels is None else [self.labels[row] for row in rows]
        note = f"of {len(self):,}, at even distances"
        return TaskSplit([self.texts[row] for row in rows], labels, (note, *self.notes))


def load_task(
    name: str | None = None,
    *,
    train_file: str | None = None,
    validation_file: str | None = None,
    test_file: str | None = None,
    data_dir: str | Path | None = None,
    own_columns: ColumnOverrides | None = None,
    validation_share: float = 0.1,
    seed: int = 42,
) -> tuple[Task, dict[str, TaskSplit]]:
    """Loads the splits of a task from files, from a folder or from the Hub, or generates those of an embedded task.

    Args:
        name: the name of a task in `TASKS`; None for a task of the user's own files, which needs `train_file`.
        train_file, validation_file, test_file: files for `read_table`. For a task in `TASKS` they have its columns.
        data_dir: a folder with `<task>/train.parquet` and a file for each other split of the task.
        own_columns: settings for a task of the user's own files; otherwise None.
        validation_share: fraction of the training rows that is held out if files have no validation split.
        seed: determines which rows are held out.

    Returns:
        The task and its splits: `train`, those for validation and, if there are any, those for testing.

    Raises:
        ValueError: if settings contradict each other; `read_table` fails; a column does not exist; no row has text; a
            label is missing, unknown or, in validation, does not occur in training; or there is only one class.
    """
    files = {"train": train_file, "validation": validation_file, "test": test_file}
    files = {split: file for split, file in files.items() if file is not None}
    if files and "train" not in files:
        raise ValueError(f"{' and '.join(f'{split}_file' for split in files)} is set, but train_file is not.")
    if files and data_dir is not None:
        raise ValueError("data_dir and train_file are both set; set one.")
    if name is None and not files:
        raise ValueError(f"Set train_file, or a task: {', '.join(TASKS)}.")
    if name is not None and own_columns is not None and own_columns != ColumnOverrides():
        given = [setting for setting, value in vars(own_columns).items() if value is not None]
        raise ValueError(f"{' and '.join(given)} is for a task of your own; {name} has its columns. Leave one out.")
    if not 0 < validation_share < 1:
        raise ValueError(f"validation_share is {validation_share}; it must be between 0 and 1.")
    task = None if name is None else find_task(name)
    if files:
        tables = {split: read_table(file) for split, file in files.items()}
        task = task or infer_task(tables["train"], own_columns or ColumnOverrides())
        task = replace(task, validation=("validation",), test=("test",), submissions=task.submissions[:1])
    elif data_dir is not None:
        tables = _tables_in_folder(task, Path(data_dir))
    elif task.embedded is not None:
        tables = {split: Table(f"{name}, {split}", rows) for split, rows in task.embedded.generate().items()}
    else:
        tables = _tables_on_hub(task)

    strict = bool(files)
    where = tables["train"].where
    train = _read_split(task, tables["train"], "train", strict)
    if task.name == OWN and not task.is_regression:
        seen = _classes_in(task, train)
        lost = [name for number, name in enumerate(task.labels) if number not in seen]
        if lost and task.is_multi_label:
            raise ValueError(
                f"{where}: no row with text has the label {name_classes(lost)}. Add such rows, or leave the label out."
            )
        if lost:
            raise ValueError(
                f"{where}: no row of the class {name_classes(lost)} has text. Fill the texts in, or leave these rows "
                "out."
            )
    if len(set(train.labels)) == 1:
        raise ValueError(
            f"{where}: every row has the label {_name_label(task, train.labels[0])}. There is nothing to learn: add "
            "rows with another label."
        )
    if task.name == OWN:
        notes = tuple(_alike_classes(task))
        if not task.is_multi_label:
            notes += (*_label_types(task, tables["train"]), *_undivided_classes(task))
        train = replace(train, notes=(*train.notes, _example(task, train), *notes))
    splits = {"train": train}
    for split, table in tables.items():
        if split != "train":
            splits[split] = _read_split(task, table, split, strict)
            if task.is_regression and len(set(splits[split].labels or (0, 1))) == 1:
                note = f"every label is {splits[split].labels[0]}, so that every correlation is 0"
                splits[split] = replace(splits[split], notes=(*splits[split].notes, note))
            if not task.is_regression:
                _check_seen(task, train, where, splits[split], table.where)
    if task.validation[0] not in splits:
        splits["train"], splits[task.validation[0]] = hold_out(
            train, validation_share, seed, keep_classes=not task.is_regression
        )
    if strict:
        splits |= {
            name: _note_training_texts(part, splits["train"]) for name, part in splits.items() if name != "train"
        }
    return task, splits


def _note_training_texts(split: TaskSplit, train: TaskSplit) -> TaskSplit:
    """Adds a note on rows that the model also trains on: their scores say nothing of other texts."""
    known = set(train.texts)
    count = sum(texts in known for texts in split.texts)
    return replace(split, notes=(*split.notes, f"{count:,} with the text of a training row")) if count else split


def _example(task: Task, split: TaskSplit) -> str:
    texts = [text if len(text) <= EXAMPLE_LENGTH else f"{text[:EXAMPLE_LENGTH]}..." for text in split.texts[0]]
    shown = [f"{name} {text!r}" for name, text in zip(task.columns, texts, strict=True)]
    label = split.labels[0]
    if not task.is_regression:
        label = _name_label(task, label) if task.is_multi_label else repr(task.labels[label])
    column = "labels" if task.label_columns else task.label_column
    return f"the first row is {', '.join(shown)} with {column} {label}"


def _name_label(task: Task, label: Any) -> Any:
    """Returns a label as messages name it: a number, the name of a class, or a list of names."""
    if task.is_multi_label:
        return [task.labels[number] for number in label]
    return label if task.is_regression else task.labels[label]


def _classes_in(task: Task, split: TaskSplit) -> set[int]:
    labels = split.labels or ()
    return set(chain.from_iterable(labels)) if task.is_multi_label else set(labels)


def _alike_classes(task: Task) -> list[str]:
    """Returns a note on classes that differ only in capitals or invisible characters: labels may be misspelt."""
    spellings: dict[str, list[str]] = {}
    for name in task.labels or ():
        plain = "".join(character for character in name if has_visible_text(character)).casefold()
        spellings.setdefault(unicodedata.normalize("NFKC", plain), []).append(name)
    alike = []
    for names in spellings.values():
        if len(names) > 1:
            show = repr if all(unicodedata.is_normalized("NFC", name) for name in names) else ascii
            alike.append(" and ".join(map(show, names)))
    return [f"classes that differ only in capitals or invisible characters: {name_classes(alike)}"] if alike else []


def _undivided_classes(task: Task) -> list[str]:
    found = [name for name in task.labels or () if LABEL_SEPARATOR in name]
    return [f"{counted(len(found), 'class name')} with {LABEL_SEPARATOR!r}. {HOW_TO_DIVIDE}"] if found else []


def _label_types(task: Task, table: Table) -> list[str]:
    """Says that labels are of several types: the text "1" and the number 1 are one class."""
    names = sorted({type(value).__name__ for value in table.values(task.label_column) if value is not None})
    return [f"labels are of several types: {', '.join(names)}"] if len(names) > 1 and names != ["float", "int"] else []


def _tables_in_folder(task: Task, folder: Path) -> dict[str, Table]:
    place = folder / task.name
    if not place.is_dir():
        there = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        raise ValueError(
            f"data_dir {folder} has no folder {task.name!r}; it has {', '.join(there) or 'no folder at all'}."
        )
    paths = {split: place / f"{split}.parquet" for split in ("train", *task.validation, *task.test)}
    missing = [paths[split].name for split in ("train", *task.validation) if not paths[split].is_file()]
    if missing:
        raise ValueError(f"{place} has no {' and no '.join(missing)}.")
    return {split: read_table(path) for split, path in paths.items() if path.is_file()}


def _tables_on_hub(task: Task) -> dict[str, Table]:
    if task.hub is None:
        raise ValueError(
            f"The task {task.name} cannot be downloaded. Ask its makers for it and set train_file and validation_file "
            f"to files with the columns {', '.join((*task.columns, *task.choices, task.label_column))}."
        )
    # This import takes a second, and predictions for lines of text do not need it.
    from datasets import load_dataset

    dataset, configuration = task.hub
    remedy = "Give the data with data_dir or train_file instead."
    try:
        with explain_loading_errors(dataset, setting=f"The data set of the task {task.name}", remedy=remedy):
            loaded = load_dataset(dataset, configuration)
    except OSError as error:  # there is no network, or the data set was removed
        raise ValueError(f"{task.name}: {error} {remedy}") from error
    names = [split for split in ("train", *task.validation, *task.test) if split in loaded]
    return {split: Table(f"{dataset}, {configuration or 'default'}, {split}", loaded[split]) for split in names}


def _read_split(task: Task, table: Table, split: str, strict: bool) -> TaskSplit:
    """Reads and checks the texts and labels of a table.

    Args:
        task: names the columns.
        table: the table to read.
        split: the name of the split; a test split may have no labels.
        strict: True if training and validation rows without text are left out. Published data sets keep theirs, so
            that scores compare; test rows always stay because each has a prediction.
    """
    is_test = split in task.test
    needed = [*task.columns, *task.choices]
    label_columns = task.label_columns or (task.label_column,)
    has_labels = not is_test or any(name in table.names for name in label_columns)
    if has_labels:
        needed += label_columns
    check_columns(table, needed, f"the task {task.name} reads it")
    texts, empty = _texts_in(task, table)
    notes = [f"no text in the column {name!r} in {name_rows(rows)}" for name, rows in empty.items()]
    dropped = set().union(*empty.values()) if strict and not is_test else set()
    if dropped:
        notes = [f"{count_rows(len(dropped))} left out: {', '.join(notes)}"]
    labels = None
    if has_labels:
        if task.is_multi_label:
            values = read_label_sets(table, task.label_column, task.label_columns)
        else:
            values = read_labels_of_table(table, task.label_column, skip_unlabelled=task.unlabelled_rows)
        if values is not None:
            labelled = [index for index, value in enumerate(values) if value is not None]
            if len(labelled) < len(values):
                notes.append(f"{count_rows(len(values) - len(labelled))} left out for lack of a label")
            kept = [index for index in labelled if index not in dropped]
            if not kept:
                raise ValueError(f"{table.where}: no row is left. {'; '.join(notes).capitalize()}.")
            labels = _read_labels(task, table, values)
            texts, labels = [texts[index] for index in kept], [labels[index] for index in kept]
    if labels is None and not is_test:
        where = "columns" if task.label_columns else "column"
        raise ValueError(f"{table.where}: there is no label in the {where} {', '.join(map(repr, label_columns))}.")
    return TaskSplit(texts, labels, tuple(notes))


def read_texts(task: Task, table: Table) -> list[tuple[str, ...]]:
    """Reads the texts of a table without labels, for predictions; a missing text is empty.

    Raises:
        ValueError: if a column does not exist, or holds something other than text.
    """
    check_columns(table, [*task.columns, *task.choices], f"the task {task.name} reads it")
    texts, _ = _texts_in(task, table)
    return texts


def _texts_in(task: Task, table: Table) -> tuple[list[tuple[str, ...]], dict[str, list[int]]]:
    """Returns the texts of each row, and for each column the rows without visible text."""
    columns = {name: table.values(name) for name in (*task.columns, *task.choices)}
    lists = task.choices[0] if len(task.choices) == 1 else None
    for name, values in columns.items():
        if name == lists:
            _check_lists(task, table, values)
            continue
        for index, value in enumerate(values):
            if value is not None and not isinstance(value, str):
                raise ValueError(
                    f"{table.where}: the column {name!r} holds {type(value).__name__} in "
                    f"{name_rows([table.first + index])}; it must be text."
                )
        columns[name] = [value or "" for value in values]
    empty = {}
    for name, values in columns.items():
        rows = [
            index
            for index, value in enumerate(values)
            if not all(map(has_visible_text, value if name == lists else (value,)))
        ]
        if rows:
            empty[name] = rows
    rows = list(zip(*(columns[name] for name in task.columns), strict=True))
    if task.kind != "multiple_choice":
        return rows, empty
    choices = columns[lists] if lists else list(zip(*(columns[name] for name in task.choices), strict=True))
    return [(" ".join(context), *row) for context, row in zip(rows, choices, strict=True)], empty


def _check_lists(task: Task, table: Table, values: Sequence[Any]) -> None:
    for index, row in enumerate(values):
        if not isinstance(row, list) or len(row) != len(task.labels) or not all(isinstance(x, str) for x in row):
            raise ValueError(
                f"{table.where}: {task.choices[0]} must be a list of {len(task.labels)} texts, but it is not in "
                f"{name_rows([table.first + index])}."
            )


def _read_labels(
    task: Task, table: Table, values: list[Any]
) -> list[int | None] | list[tuple[int, ...]] | list[float]:
    """Returns labels as numbers: those of the classes, which may be given by name or number, or numbers to predict.

    A label that is None stays None. If several classes may apply, the numbers of a row are sorted, each once.
    """
    where = f"{table.where}: the label ({task.label_column})"
    if task.labels is None:
        numbers = [parse_number(value) for value in values]
        wrong = [index for index, number in enumerate(numbers) if not math.isfinite(number)]
        if wrong:
            raise ValueError(f"{where} is not a number in {name_rows(wrong)}: {values[wrong[0]]!r}.")
        return numbers
    numbers = {name: number for number, name in enumerate(task.labels)}
    if task.is_multi_label:
        found = [{numbers.get(name_class(value)) for value in row} for row in values]
        unknown = [index for index, row in enumerate(found) if None in row]
        if unknown:
            names = {name_class(value) for index in unknown for value in values[index]}.difference(numbers)
            raise ValueError(_describe_unknown(task, where, names, unknown))
        return [tuple(sorted(row)) for row in found]
    if task.name != OWN and not any(name.isdecimal() for name in task.labels):
        # In published files classes are usually numbered, from 0.
        numbers |= {str(number): number for number in range(len(task.labels))}
    found = [None if value is None else numbers.get(name_class(value)) for value in values]
    unknown = [index for index, value in enumerate(values) if value is not None and found[index] is None]
    if unknown:
        names = {name_class(values[index]) for index in unknown}
        raise ValueError(_describe_unknown(task, where, names, unknown))
    return found


def _describe_unknown(task: Task, where: str, names: set[str], rows: Sequence[int]) -> str:
    source = "the classes in the training data" if task.name == OWN else f"the classes of {task.name}"
    return (
        f"{where} is {', '.join(sorted(map(repr, names))[:5])} in {name_rows(rows)}, which is none of {source}: "
        f"{name_classes(task.labels)}."
    )


def _check_seen(task: Task, train: TaskSplit, train_where: str, split: TaskSplit, where: str) -> None:
    seen = _classes_in(task, train)
    sets = split.labels if task.is_multi_label else [(label,) for label in split.labels or ()]
    unseen = [index for index, row in enumerate(sets or ()) if not seen.issuperset(row)]
    if unseen:
        labels = sorted({task.labels[number] for index in unseen for number in set(sets[index]) - seen})
        raise ValueError(
            f"{where}: the label is {', '.join(map(repr, labels))} in {name_rows(unseen)}, which does not "
            f"occur in training: {train_where} has {name_classes([task.labels[number] for number in sorted(seen)])}."
        )


def __getattr__(name: str) -> Any:
    if name == "OwnColumns":  # its name in version 0.1
        warn(f"{__name__}.{name}", f"{ColumnOverrides.__module__}.{ColumnOverrides.__name__}")
        return ColumnOverrides
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

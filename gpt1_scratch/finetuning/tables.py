"""Labelled text from files of any usual kind, as columns, with errors that name the file and the line."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
from datasets import ClassLabel, Dataset
from datasets.table import InMemoryTable
from pyarrow import parquet

from ..pretraining.text_files import check_text_file

EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")

ROWS_NAMED = 5


@dataclass(frozen=True)
class Table:
    """Columns of equal length, and where they come from, for messages.

    Attributes:
        where: the file or data set.
        columns: by name; a `Dataset` reads a column when it is asked for.
    """

    where: str
    columns: dict[str, list[Any]] | Dataset

    @property
    def names(self) -> list[str]:
        return self.columns.column_names if isinstance(self.columns, Dataset) else list(self.columns)

    def values(self, name: str) -> list[Any]:
        """A column; of classes that the data set names, their names, and None for its -1."""
        values = self.columns[name][:]
        feature = self.columns.features[name] if isinstance(self.columns, Dataset) else None
        if isinstance(feature, ClassLabel):
            return [None if value is None or value < 0 else feature.names[value] for value in values]
        return values

    def class_names(self, name: str) -> list[str] | None:
        """The names of a column's classes, if the data set has them."""
        feature = self.columns.features[name] if isinstance(self.columns, Dataset) else None
        return feature.names if isinstance(feature, ClassLabel) else None


def name_rows(indices: Sequence[int]) -> str:
    """`row 3`, `rows 3, 8` and so on, as a person counts them: from 1, without a header."""
    shown = ", ".join(str(index + 1) for index in indices[:ROWS_NAMED])
    more = f" and {len(indices) - ROWS_NAMED:,} more" if len(indices) > ROWS_NAMED else ""
    return f"row{'s' if len(indices) > 1 else ''} {shown}{more} (counted from 1, without a header)"


def read_table(path: str | Path) -> Table:
    """Reads a file of rows; its extension tells the kind.

    - `.csv`, with quoted fields where needed, and `.tsv`, whose fields are taken as they stand; the first line names
      the columns, and every value is text, empty where nothing stands;
    - `.jsonl`, `.ndjson`, `.json`: JSON lines, one object on each;
    - `.parquet`.

    Raises:
        ValueError: a file that is missing, empty, of another kind, not UTF-8 or malformed; the message names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    extension = path.suffix.lower()
    if extension not in EXTENSIONS:
        raise ValueError(f"{path} ends in none of {', '.join(EXTENSIONS)}; rename or convert it.")
    if extension == ".parquet":
        try:
            columns: dict[str, list[Any]] | Dataset = Dataset(InMemoryTable(parquet.read_table(path)))
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{path} is not a parquet file ({error}).") from error
        rows = len(columns)
    else:
        check_text_file(path)
        columns = _read_json_lines(path) if extension.startswith((".json", ".ndjson")) else _read_delimited(path)
        rows = len(next(iter(columns.values()), []))
    if rows == 0:
        raise ValueError(f"{path} has no rows.")
    return Table(str(path), columns)


def _read_delimited(path: Path) -> dict[str, list[Any]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() == ".tsv":
            # Fields of TSV are as they stand: a quotation mark is part of the text.
            reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        else:
            reader = csv.reader(file, strict=True)
        try:
            rows = list(_rows_of(reader, path))
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}.") from error
    if not rows:
        return {}
    header, *rows = rows
    if len(set(header)) < len(header):
        raise ValueError(f"{path}: the first line names a column twice: {', '.join(header)}.")
    return {name: [row[place] for row in rows] for place, name in enumerate(header)}


def _rows_of(reader: Any, path: Path) -> Iterator[list[str]]:
    header = None
    for fields in reader:
        if not fields:
            continue
        header = header or fields
        if len(fields) != len(header):
            raise ValueError(
                f"{path}, line {reader.line_num}: has {len(fields)} fields, but the first line names {len(header)} "
                f"columns ({', '.join(header)})."
            )
        yield fields


def _read_json_lines(path: Path) -> dict[str, list[Any]]:
    rows = []
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: not valid JSON at column {error.colno} ({error.msg}). Each line must be "
                    "one JSON object."
                ) from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: holds {type(row).__name__}; it must be one JSON object.")
            rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}

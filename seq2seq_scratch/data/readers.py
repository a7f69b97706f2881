"""Reads the files that users bring, with errors that name the file and the line.

Tables are parquet, JSON lines, a JSON list of objects, CSV and TSV; everything else is text, in lines. A file may be
compressed with gzip or zstandard. Every recipe reads through this file, so that the same file gives the same rows
everywhere:

- Text is UTF-8. Only a line feed, or a carriage return before it, ends a line: the other separators of Unicode stand
  within sentences. A byte order mark is dropped.
- The first line of a CSV or TSV file names the columns. Every field is text as it stands, `NA` and `null` too, and
  empty where nothing stands. CSV fields may be quoted; in TSV a quotation mark is part of the text.
- A JSON value keeps its type, and null is None.

The rows are parsed by `csv` and `json` and stored by `datasets`, not parsed by its readers: pandas fills up a row that
has too few fields, pyarrow ends a row at a carriage return, and its JSON reader turns text that looks like a date into
a time.
"""

import csv
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from datasets.exceptions import DatasetGenerationError
from pyarrow import parquet

from .table_builder import TableBuilder
from .text_lines import (
    COMPRESSIONS,
    JSON_EXTENSIONS,
    TABLE_EXTENSIONS,
    file_extension,
    numbered_lines,
    open_file,
    without_line_end,
)

Row = dict[str, Any]

# In messages; a table may have thousands.
COLUMNS_NAMED = 10

# A table that is stored at a time.
ROW_CHUNK_SIZE = 1_000
CHARACTER_CHUNK_SIZE = 2**24


# Tables


def table_rows(path: str | Path) -> Iterator[tuple[str, Row]]:
    """The rows of a table, each with its place, such as `data.csv, line 3`.

    Raises:
        ValueError: a file that is missing, empty, of another kind, not UTF-8 or malformed; the message names the line.
    """
    extension = file_extension(path)
    if extension not in TABLE_EXTENSIONS:
        raise ValueError(f"{path} ends in none of {', '.join(TABLE_EXTENSIONS)}; rename or convert it.")
    if extension == ".parquet":
        rows = _parquet_rows(path)
    elif extension in JSON_EXTENSIONS:
        rows = _json_rows(path)
    else:
        rows = _delimited_rows(path, extension)
    where = None
    for where, row in rows:
        yield where, row
    if where is None:
        raise ValueError(f"{path} is empty: it has no rows.")


def _delimited_rows(path: str | Path, extension: str) -> Iterator[tuple[str, Row]]:
    header = None
    for number, fields in _tsv_fields(path) if extension == ".tsv" else _csv_fields(path):
        if header is None:
            header = [name.strip() for name in fields]
            _check_separator(path, header, extension)
            _check_header(path, header)
            continue
        if len(fields) != len(header):
            raise ValueError(
                f"{path}, line {number}: has {_count(len(fields), 'field')}, but the first line names "
                f"{_count(len(header), 'column')} ({_some(header)})."
            )
        yield f"{path}, line {number}", dict(zip(header, fields, strict=True))


def _check_separator(path: str | Path, header: Sequence[str], extension: str) -> None:
    other = {";", "|", "\t" if extension == ".csv" else ","}.intersection(header[0])
    if len(header) == 1 and other:
        right = "commas" if extension == ".csv" else "tabs"
        raise ValueError(
            f"{path}: the first line names one column, {header[0]!r}. Fields of a {extension} file are separated by "
            f"{right}, not by {min(other)!r}: convert the file."
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - COLUMNS_NAMED:,} more" if len(names) > COLUMNS_NAMED else ""
    return ", ".join(names[:COLUMNS_NAMED]) + more


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _check_header(path: str | Path, header: Sequence[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(
            f"{path} names the column {' and '.join(map(repr, twice))} twice; it has {_some(header)}. Rename one."
        )


def _tsv_fields(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in numbered_lines(path):
        if line := without_line_end(line):
            yield number, line.split("\t")


# No text in UTF-8 holds it, so it can stand for a carriage return within a line, at which `csv` would end a row.
_CARRIAGE_RETURN = "\udc0d"


def _csv_fields(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    def lines() -> Iterator[str]:
        for _, line in numbered_lines(path):
            if "\r" in line:
                text = without_line_end(line)
                line = text.replace("\r", _CARRIAGE_RETURN) + line[len(text) :]
            yield line

    csv.field_size_limit(2**31 - 1)  # of all readers of the process; by default a field ends at 131,072 characters
    reader = csv.reader(lines(), strict=True)
    begin = 1
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, [field.replace(_CARRIAGE_RETURN, "\r") for field in fields]
            begin = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: {error}, in the row that begins in line {begin}. A field with a comma, "
            "a line break or a quotation mark stands between quotation marks, and a quotation mark in it is doubled."
        ) from error


def _json_rows(path: str | Path) -> Iterator[tuple[str, Row]]:
    lines = numbered_lines(path)
    for number, line in lines:
        if not line.strip():
            continue
        if line.lstrip().startswith("["):
            yield from _json_list_rows(path, number, itertools.chain([line], (text for _, text in lines)))
            return
        where = f"{path}, line {number}"
        row = _parse_json(line.rstrip(), where, number)
        if not isinstance(row, dict):
            raise ValueError(f"{where}: holds {type(row).__name__}. {_JSON_KINDS}")
        if (
            len(row) == 1
            and isinstance(rows := next(iter(row.values())), list)
            and all(isinstance(inner, dict) for inner in rows)
        ):
            raise ValueError(
                f"{where}: an object holds the rows as the list {next(iter(row))!r}. Save that list alone. "
                f"{_JSON_KINDS}"
            )
        yield where, row


_JSON_KINDS = "Each line must be one JSON object, or the file one list of JSON objects."


def _json_list_rows(path: str | Path, begin: int, lines: Iterable[str]) -> Iterator[tuple[str, Row]]:
    rows = _parse_json("".join(lines), str(path), begin)
    wrong = next((row for row in rows if not isinstance(row, dict)), None) if isinstance(rows, list) else rows
    if wrong is not None or None in rows:
        raise ValueError(f"{path}, line {begin}: holds list with {type(wrong).__name__}. {_JSON_KINDS}")
    for number, row in enumerate(rows, start=1):
        yield f"{path}, item {number} of the list", row


def _parse_json(text: str, where: str, begin: int) -> Any:
    """Parses JSON that begins in a line; refuses what would be lost or could not be stored as text."""

    def object_of(items: list[tuple[str, Any]]) -> Row:
        row = dict(items)
        if len(row) < len(items):
            _check_header(where, [name for name, _ in items])
        return row

    try:
        value = json.loads(text, object_pairs_hook=object_of)
    except json.JSONDecodeError as error:
        line = f", line {begin + error.lineno - 1}" if ", line " not in where else ""
        raise ValueError(
            f"{where}{line}: not valid JSON at column {error.colno} ({error.msg}). {_JSON_KINDS}"
        ) from error
    if "\\ud" in text or "\\uD" in text:
        for number, line in enumerate(text.split("\n")):
            for part in _strings_in(line):
                try:
                    part.encode()
                except UnicodeEncodeError as error:
                    line = f", line {begin + number}" if ", line " not in where else ""
                    raise ValueError(
                        f"{where}{line}: \\u{ord(part[error.start]):04x} is half of a surrogate pair and no "
                        "character. Write both halves, or leave it out."
                    ) from error
    return value


def _strings_in(line: str) -> Iterator[str]:
    """The strings of a line of valid JSON; none goes beyond its line."""
    place = line.find('"')
    while place >= 0:
        text, end = json.decoder.scanstring(line, place + 1)
        yield text
        place = line.find('"', end)


def open_parquet(path: str | Path) -> parquet.ParquetFile:
    """Opens a parquet file that has rows.

    Raises:
        ValueError: a file that is missing, empty, not parquet, or names a column twice.
    """
    with open_file(path) as stream:
        compressed = Path(path).suffix.lower() in COMPRESSIONS
        content = pyarrow.BufferReader(stream.read()) if compressed else pyarrow.OSFile(str(path))
    try:
        file = parquet.ParquetFile(content)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a parquet file ({error}).") from error
    _check_header(path, file.schema_arrow.names)
    if file.metadata.num_rows == 0:
        raise ValueError(f"{path} is empty: it has no rows.")
    return file


def parquet_tables(path: str | Path, columns: Sequence[str] | None = None) -> Iterator[pyarrow.Table]:
    """The rows of a parquet file, some at a time; a column of categories as the values that they stand for."""
    for batch in open_parquet(path).iter_batches(ROW_CHUNK_SIZE, columns=columns):
        table = pyarrow.Table.from_batches([batch])
        yield table.cast(_without_categories(table.schema))


def parquet_features(path: str | Path) -> datasets.Features:
    """The columns of a parquet file and their types."""
    return datasets.Features.from_arrow_schema(_without_categories(open_parquet(path).schema_arrow))


def _without_categories(schema: pyarrow.Schema) -> pyarrow.Schema:
    for place, field in enumerate(schema):
        if pyarrow.types.is_dictionary(field.type):
            schema = schema.set(place, field.with_type(field.type.value_type))
    return schema


def _parquet_rows(path: str | Path) -> Iterator[tuple[str, Row]]:
    rows = (row for table in parquet_tables(path) for row in table.to_pylist())
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row


def text_of(value: Any, where: str, name: str) -> str:
    """A value that must be text; nothing is empty text.

    Raises:
        ValueError: it is something else.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} holds {type(value).__name__} ({value!r}), not text.")
    return value


# Data sets


def tables_of_rows(rows: Iterable[Mapping[str, str]]) -> Iterator[pyarrow.Table]:
    """Rows of text as tables, some rows at a time."""
    held: list[Mapping[str, str]] = []
    size = 0
    for row in rows:
        held.append(row)
        size += sum(map(len, row.values()))
        if len(held) == ROW_CHUNK_SIZE or size >= CHARACTER_CHUNK_SIZE:
            yield pyarrow.Table.from_pylist(held)
            held, size = [], 0
    if held:
        yield pyarrow.Table.from_pylist(held)


def _rows_of_files(
    files: Sequence[tuple[str, ...]], generate: Callable[..., Iterator[pyarrow.Table]], arguments: Mapping[str, Any]
) -> Iterator[Row]:
    for paths in files:
        for table in generate(*paths, **arguments):
            yield from table.to_pylist()


def dataset_of_files(
    generate: Callable[..., Iterator[pyarrow.Table]],
    files: Sequence[tuple[str, ...]],
    features: datasets.Features,
    *,
    split: str = "train",
    streaming: bool = False,
    **arguments: Any,
) -> Any:
    """A data set of the tables that a function makes of files.

    Args:
        generate: called with the names of files that belong together and with the further arguments.
        files: those names, a tuple for each call.
        features: columns and types of the tables.
        split: "train", or, unless streaming, a slice of it such as "train[:95%]".
        streaming: reads as it goes instead of storing the whole in the cache.

    Raises:
        ValueError: what the function raises; of a stream, when it gets there.
    """
    if streaming:
        # The library hands out the items of a list to the processes that read a stream.
        shards = {"files": list(files), "generate": generate, "arguments": arguments}
        return datasets.IterableDataset.from_generator(_rows_of_files, features=features, gen_kwargs=shards)
    stamps = tuple((status.st_size, status.st_mtime_ns) for paths in files for status in map(os.stat, paths))
    builder = TableBuilder(
        generate=generate, files=tuple(files), stamps=stamps, arguments=arguments, features=features
    )
    try:
        builder.download_and_prepare()
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise
    return builder.as_dataset(split=split)

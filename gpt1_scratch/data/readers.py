"""Reads the files that users bring, with errors that name the file and the line.

Tables are parquet, JSON lines, a JSON list of objects, CSV and TSV; everything else is text, in lines. A file may be
compressed with gzip or zstandard. All recipes use these functions, so a file gives the same rows in each of them:

- Text is UTF-8. A line ends with a line feed, which may follow a carriage return; other line separators of Unicode
  are part of the text. A byte order mark is dropped.
- The first line of a CSV or TSV file names the columns. Every field is text, also `NA` and `null`, and an empty field
  is empty text. CSV fields may be quoted; in TSV a quotation mark is part of the text.
- A blank line is a row with empty text if the first line of a CSV or TSV file names one column. Above the first line,
  between rows of several columns and in JSON it is skipped: it is no row, and rows are numbered without it.
- A JSON value keeps its type, and null is None.

Rows are parsed by `csv` and `json` and stored by `datasets`. The readers of `datasets` are not used: pandas fills up
rows that have too few fields, and pyarrow ends a row at a carriage return and converts JSON text that looks like a
date to a time.

The packages do not import each other, and each has this file; a test compares them.
"""

import csv
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from datasets.exceptions import DatasetGenerationError
from pyarrow import parquet

from .streamed_tables import StreamedTables
from .table_builder import TableBuilder
from .text_lines import (
    COMPRESSIONS,
    ERRORS_OF_READING,
    JSON_EXTENSIONS,
    TABLE_EXTENSIONS,
    FilePlace,
    check_file,
    file_extension,
    numbered_lines,
    open_file,
    without_line_end,
)
from .wording import counted

Row = dict[str, Any]

# The maximum number of columns that a message names; a table may have thousands.
COLUMNS_NAMED = 10

# The maximum size of a table that is stored at a time.
ROW_CHUNK_SIZE = 1_000
CHARACTER_CHUNK_SIZE = 2**24


# Tables


def table_rows(path: str | Path, place: FilePlace | None = None) -> Iterator[tuple[str, Row]]:
    """Yields the rows of a table, each with its place, such as `data.csv, line 3`.

    Args:
        path: the file.
        place: where to begin in it; it is moved behind every row that is given.

    Raises:
        ValueError: if the file is missing, empty, of another kind, not UTF-8 or malformed; the message names the line.
    """
    check_file(path)
    extension = file_extension(path)
    if extension not in TABLE_EXTENSIONS:
        raise ValueError(f"{path} ends in none of {', '.join(TABLE_EXTENSIONS)}; rename or convert it.")
    place = place or FilePlace()
    begins = place == FilePlace()
    if extension == ".parquet":
        rows = _parquet_rows(path, place)
    elif extension in JSON_EXTENSIONS:
        rows = _json_rows(path, place)
    else:
        rows = _delimited_rows(path, extension, place)
    where = None
    for where, row in rows:
        yield where, row
    if where is None and begins:
        raise ValueError(f"{path} is empty: it has no rows.")


def _delimited_rows(path: str | Path, extension: str, place: FilePlace) -> Iterator[tuple[str, Row]]:
    read = _tsv_fields if extension == ".tsv" else _csv_fields
    # The first line is read again where reading begins within the file.
    rows = read(path, place)
    first = next((line for line in (read(path, FilePlace()) if place.offset else rows) if line[1]), None)
    if first is None:
        return
    if any(re.search(r"\r(?!\n)", name) for name in first[1]):
        raise ValueError(
            f"{path}: the first line has carriage returns within it, so its lines end in carriage returns alone. "
            "Convert the line ends to line feeds."
        )
    header = [name.strip() for name in first[1]]
    _check_separator(path, header, extension)
    _check_header(path, header)
    for number, fields in rows:
        if not fields and len(header) > 1:
            continue
        fields = fields or [""]
        if len(fields) != len(header):
            raise ValueError(
                f"{path}, line {number}: has {counted(len(fields), 'field')}, but the first line names "
                f"{counted(len(header), 'column')} ({_some(header)})."
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


def _check_header(path: str | Path, header: Sequence[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(
            f"{path} names the column {' and '.join(map(repr, twice))} twice; it has {_some(header)}. Rename one."
        )


def _tsv_fields(path: str | Path, place: FilePlace) -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the fields of each line; a blank line has none."""
    for number, line in numbered_lines(path, place):
        line = without_line_end(line)
        yield number, line.split("\t") if line else []


# Replaces a carriage return within a line, at which `csv` would end a row. UTF-8 text cannot have this character.
_CARRIAGE_RETURN = "\udc0d"


def _csv_fields(path: str | Path, place: FilePlace) -> Iterator[tuple[int, list[str]]]:
    """Yields the number of the last line and the fields of each row; a blank line has none."""

    def lines() -> Iterator[str]:
        for _, line in numbered_lines(path, place):
            if "\r" in line:
                text = without_line_end(line)
                line = text.replace("\r", _CARRIAGE_RETURN) + line[len(text) :]
            yield line

    csv.field_size_limit(2**31 - 1)  # for all readers of the process; the default limit is 131,072 characters
    reader = csv.reader(lines(), strict=True)
    begin = place.line + 1
    try:
        for fields in reader:
            yield place.line, [field.replace(_CARRIAGE_RETURN, "\r") for field in fields]
            begin = place.line + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {place.line}: {error}, in the row that begins in line {begin}. Put a field with a "
            "comma, a line break or a quotation mark between quotation marks, and double the quotation marks in it."
        ) from error


def _json_rows(path: str | Path, place: FilePlace) -> Iterator[tuple[str, Row]]:
    lines = numbered_lines(path, place)
    for number, line in lines:
        if not line.strip():
            continue
        if line.lstrip().startswith("["):
            rows = _json_list_rows(path, number, itertools.chain([line], (text for _, text in lines)))
            for where, row in itertools.islice(rows, place.rows, None):
                # The list is read as a whole, so it begins again at its beginning.
                place.offset, place.line, place.rows = 0, 0, place.rows + 1
                yield where, row
            return
        where = f"{path}, line {number}"
        row = parse_json(line.rstrip(), where)
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
    rows = parse_json("".join(lines), str(path), begin)
    wrong = next((row for row in rows if not isinstance(row, dict)), None) if isinstance(rows, list) else rows
    if wrong is not None or None in rows:
        raise ValueError(f"{path}, line {begin}: holds list with {type(wrong).__name__}. {_JSON_KINDS}")
    for number, row in enumerate(rows, start=1):
        yield f"{path}, item {number} of the list", row


def parse_json(text: str, where: str, begin: int | None = None, kinds: str = _JSON_KINDS) -> Any:
    """Parses JSON.

    Args:
        text: the JSON.
        where: its file, and its line if it is within one.
        begin: the number of its first line otherwise.
        kinds: what it should be, for the message.

    Raises:
        ValueError: if it is no JSON, repeats a key, is nested too deep, has an integer that Python does not read, or
            text that cannot be stored as UTF-8.
    """

    def object_of(items: list[tuple[str, Any]]) -> Row:
        row = dict(items)
        if len(row) < len(items):
            _check_header(where, [name for name, _ in items])
        return row

    try:
        value = json.loads(text, object_pairs_hook=object_of)
    except json.JSONDecodeError as error:
        line = "" if begin is None else f", line {begin + error.lineno - 1}"
        raise ValueError(f"{where}{line}: not valid JSON at column {error.colno} ({error.msg}). {kinds}") from error
    except RecursionError:
        raise ValueError(f"{where}: the JSON has too many lists or objects inside each other. {kinds}") from None
    except ValueError as error:
        if "integer string conversion" not in str(error):
            raise
        digits = sys.get_int_max_str_digits()
        raise ValueError(f"{where}: the JSON has an integer of more than {digits:,} digits. {kinds}") from None
    if "\\ud" in text or "\\uD" in text:
        for number, line in enumerate(text.split("\n")):
            for part in _strings_in(line):
                try:
                    part.encode()
                except UnicodeEncodeError as error:
                    line = "" if begin is None else f", line {begin + number}"
                    raise ValueError(
                        f"{where}{line}: \\u{ord(part[error.start]):04x} is half of a surrogate pair and no "
                        "character. Write both halves, or leave it out."
                    ) from error
    return value


def _strings_in(line: str) -> Iterator[str]:
    """Yields the strings in a line of valid JSON. A string of JSON cannot continue on the next line."""
    place = line.find('"')
    while place >= 0:
        text, end = json.decoder.scanstring(line, place + 1)
        yield text
        place = line.find('"', end)


def open_parquet(path: str | Path) -> parquet.ParquetFile:
    """Opens a parquet file that has rows.

    Raises:
        ValueError: if the file is missing, empty, damaged or not parquet, or names a column twice.
    """
    try:
        with open_file(path) as stream:
            compressed = Path(path).suffix.lower() in COMPRESSIONS
            content = pyarrow.BufferReader(stream.read()) if compressed else pyarrow.OSFile(str(path))
    except ERRORS_OF_READING as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    try:
        file = parquet.ParquetFile(content)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a parquet file ({error}).") from error
    _check_header(path, file.schema_arrow.names)
    if file.metadata.num_rows == 0:
        raise ValueError(f"{path} is empty: it has no rows.")
    return file


def parquet_tables(
    path: str | Path, columns: Sequence[str] | None = None, places: Sequence[FilePlace] = ()
) -> Iterator[pyarrow.Table]:
    """Yields the rows of a parquet file in tables. Columns of categories are converted to the values.

    Args:
        path: the file.
        columns: the columns to read. Default: all.
        places: the place to begin at, one element; it is moved behind each table before the table is yielded.
    """
    (place,) = places or (FilePlace(),)
    file = open_parquet(path)
    begin = 0
    for group in range(file.num_row_groups):
        end = begin + file.metadata.row_group(group).num_rows
        batches = file.iter_batches(ROW_CHUNK_SIZE, row_groups=[group], columns=columns) if place.rows < end else ()
        try:
            for batch in batches:
                begin += len(batch)
                if begin > place.rows:
                    place.rows = begin
                    table = pyarrow.Table.from_batches([batch])
                    yield table.cast(_without_categories(table.schema))
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{path} cannot be read after row {begin:,}: {error}.") from error
        begin = end


def _without_categories(schema: pyarrow.Schema) -> pyarrow.Schema:
    for place, field in enumerate(schema):
        if pyarrow.types.is_dictionary(field.type):
            schema = schema.set(place, field.with_type(field.type.value_type))
    return schema


def _parquet_rows(path: str | Path, place: FilePlace) -> Iterator[tuple[str, Row]]:
    rows = (row for table in parquet_tables(path) for row in table.to_pylist(maps_as_pydicts="lossy"))
    for number, row in enumerate(itertools.islice(rows, place.rows, None), start=place.rows + 1):
        place.rows = number
        yield f"{path}, row {number}", row


def text_of(value: Any, where: str, name: str) -> str:
    """Returns a value that must be text; None becomes empty text.

    Raises:
        ValueError: if the value is neither text nor None.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} holds {type(value).__name__} ({value!r}), not text.")
    return value


# Data sets


def tables_of_rows(rows: Iterable[Mapping[str, str]]) -> Iterator[pyarrow.Table]:
    """Yields rows of text in tables of limited size."""
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


def dataset_of_files(
    generate: Callable[..., Iterator[pyarrow.Table]],
    files: Sequence[tuple[str, ...]],
    features: datasets.Features,
    *,
    split: str = "train",
    streaming: bool = False,
    **arguments: Any,
) -> Any:
    """Returns a data set of the tables that a function yields for files.

    Args:
        generate: the function. It takes the names of files that belong together, and `arguments`; for a stream also
            `places`, a `FilePlace` for each file, at which it begins to read and which it moves on.
        files: the names of the files, a tuple for each call of the function.
        features: the columns of the tables and their types.
        split: "train", or, without `streaming`, a slice of it such as "train[:95%]".
        streaming: True to read the files as rows are needed, instead of storing all rows in the cache first.
        arguments: further arguments of the function.

    Raises:
        ValueError: if the function raises it. A stream raises it when the row is read.
    """
    if streaming:
        tables = StreamedTables(generate, list(files), arguments, features)
        return datasets.IterableDataset(tables, datasets.DatasetInfo(features=features), datasets.Split.TRAIN)
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

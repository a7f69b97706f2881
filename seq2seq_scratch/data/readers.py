"""Readers of files of sentence pairs, with errors that name file, line and column."""

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Pair = dict[str, str]


Reader = Callable[..., Iterator[Pair]]


@dataclass(frozen=True)
class PairColumns:
    """Where a row holds the two sides: in two columns, or under two keys of one column of dictionaries."""

    source: str
    target: str
    inside: str | None = None

    def of_row(self, row: Mapping[str, Any]) -> tuple[Any, Any]:
        sides = row if self.inside is None else row[self.inside] or {self.source: None, self.target: None}
        return sides[self.source], sides[self.target]


@dataclass(frozen=True)
class Wanted:
    """What the user said about languages and columns."""

    source_language: str
    target_language: str
    source_column: str | None
    target_column: str | None

    def find(self, where: str, columns: Sequence[str], translation_keys: Sequence[str]) -> PairColumns:
        """Settles on columns, or says what is missing and what there is.

        Args:
            where: the file or data set, for the error.
            columns: what it has.
            translation_keys: the keys of its column `translation`.
        """
        if self.source_column is None and self.target_column is None and "translation" in columns:
            for setting, language in (
                ("source_language", self.source_language),
                ("target_language", self.target_language),
            ):
                if language not in translation_keys:
                    raise ValueError(
                        f"{where}: the column translation has no {language!r} ({setting}); "
                        f"it has {', '.join(sorted(translation_keys)) or 'no languages'}."
                    )
            return PairColumns(self.source_language, self.target_language, inside="translation")
        found = PairColumns(self.source_column or self.source_language, self.target_column or self.target_language)
        for side, column in (("source", found.source), ("target", found.target)):
            if column not in columns:
                raise ValueError(
                    f"{where}: there is no column {column!r}; it has {', '.join(columns)}. "
                    f"Set {side}_column, or {side}_language where a column is named after the language."
                )
        return found


def _lines_of(path: str) -> Iterator[tuple[int, str]]:
    """Numbered lines, from 1. Only a line feed ends one: the other Unicode separators stand within sentences."""
    offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: byte 0x{line[error.start]:02x} at offset {offset + error.start} of the "
                    "file is not UTF-8. Convert the file to UTF-8."
                ) from error
            offset += len(line)
            yield number, text.removeprefix("\ufeff") if number == 1 else text


def read_text_lines(path: str) -> list[str]:
    """The lines of a text file, one sentence each.

    Raises:
        ValueError: a file that is missing, empty or not UTF-8, with the line and the byte's offset.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}.")
    lines = [_without_line_end(line) for _, line in _lines_of(path)]
    if not lines:
        raise ValueError(f"{path} is empty.")
    return lines


def _without_line_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def _text_of(value: Any, where: str, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} holds {type(value).__name__} ({value!r}), not text.")
    return value


def _pair_of_row(row: Mapping[str, Any], wanted: Wanted, where: str) -> Pair:
    translation = row.get("translation")
    if translation is None:
        keys = (wanted.source_language, wanted.target_language)  # a missing pair
    elif isinstance(translation, dict):
        keys = tuple(translation)
    elif wanted.source_column or wanted.target_column:
        keys = ()
    else:
        raise ValueError(f"{where}: translation holds {translation!r}, not a dictionary from language to text.")
    columns = wanted.find(where, tuple(row), keys)
    source, target = columns.of_row(row)
    return {"source": _text_of(source, where, columns.source), "target": _text_of(target, where, columns.target)}


def _read_json_lines(path: str, wanted: Wanted) -> Iterator[Pair]:
    for number, line in _lines_of(path):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{where}: not valid JSON at column {error.colno} ({error.msg}). Each line must be one JSON object."
            ) from error
        if not isinstance(row, dict):
            raise ValueError(f"{where}: holds {type(row).__name__}. Each line must be one JSON object.")
        yield _pair_of_row(row, wanted, where)


def _read_table(path: str, wanted: Wanted) -> Iterator[Pair]:
    lines = (line for _, line in _lines_of(path))
    if path.endswith(".tsv"):
        # Fields of TSV are as they stand: a quotation mark is part of the sentence.
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, strict=True)
    header = None
    try:
        for fields in reader:
            where = f"{path}, line {reader.line_num}"
            if not fields:
                continue
            if header is None:
                header = fields
                continue
            if len(fields) != len(header):
                raise ValueError(
                    f"{where}: has {len(fields)} fields, but the first line names {len(header)} columns "
                    f"({', '.join(header)})."
                )
            row: dict[str, Any] = dict(zip(header, fields, strict=True))
            if "translation" in row and not (wanted.source_column or wanted.target_column):
                try:
                    row["translation"] = json.loads(row["translation"])
                except json.JSONDecodeError as error:
                    raise ValueError(
                        f"{where}: translation holds {row['translation']!r}, not a JSON object from language to text."
                    ) from error
            yield _pair_of_row(row, wanted, where)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}.") from error


def _read_text_files(source_path: str, target_path: str, wanted: Wanted) -> Iterator[Pair]:
    sources, targets = _lines_of(source_path), _lines_of(target_path)
    count = 0
    for source, target in itertools.zip_longest(sources, targets):
        if source is None or target is None:
            rest = 1 + sum(1 for _ in (targets if source is None else sources))
            counts = (count, count + rest) if source is None else (count + rest, count)
            raise ValueError(
                f"{source_path} has {counts[0]} lines, but {target_path} has {counts[1]}. "
                "Line-aligned files must have equally many."
            )
        count += 1
        yield {"source": _without_line_end(source[1]), "target": _without_line_end(target[1])}

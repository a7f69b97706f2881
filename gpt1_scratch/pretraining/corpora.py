"""Opens text data sets: embedded ones, files, and those on the Hub. `packing.py` packs their texts into blocks."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow
from datasets import (
    Dataset,
    Features,
    IterableDataset,
    ReadInstruction,
    Value,
    get_dataset_config_names,
    get_dataset_split_names,
    load_dataset,
)

from ..data.hub_data import explain_loading_errors
from ..data.readers import (
    JSON_EXTENSIONS,
    TABLE_EXTENSIONS,
    dataset_of_files,
    open_parquet,
    parquet_tables,
    table_rows,
    tables_of_rows,
    text_of,
)
from ..data.text_lines import COMPRESSIONS, FilePlace, check_file, file_extension, numbered_lines, without_line_end
from .embedded import EMBEDDED_TEXTS

logger = logging.getLogger(__name__)

TEXT_EXTENSIONS = (".txt", ".text", ".md")
EXTENSIONS = (*TEXT_EXTENSIONS, *TABLE_EXTENSIONS)

TEXT_FEATURES = Features({"text": Value("string")})

# Control characters that no text has, but a zip archive or an image has near its beginning.
BINARY_CHARACTERS = frozenset(map(chr, range(32))) - set("\t\n\v\f\r\x1a\x1b")

# Maximum number of files that the warning about unread files names.
FILES_NAMED = 5


def load_texts(
    source: str | Path | Sequence[str | Path],
    split: str = "train",
    *,
    name: str | None = None,
    revision: str | None = None,
    text_column: str = "text",
    row: Literal["document", "line"] = "document",
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """Opens a text data set.

    Args:
        source: the name of an embedded data set (`EMBEDDED_TEXTS`), such as "stories"; a file, several files, or a
            folder of files (those in its sub-folders too, but no README); or a data set's name on the Hub. Files are
            text (`.txt`, `.text`, `.md`) or tables (parquet, JSON lines, a JSON list, CSV, TSV: see
            `gpt1_scratch.data.readers`).
        split: the name of the split; files have only "train". A slice such as "train[:95%]" is possible unless
            `streaming` is set.
        name: the configuration of a data set on the Hub that has several.
        revision: a branch, tag or commit of a data set on the Hub. Default: its main branch.
        text_column: the column of the text.
        row: what becomes a row of a plain text file: the whole file ("document") or each line ("line").
        streaming: True to read the texts as they are needed instead of copying all of them to the cache.

    Returns:
        A data set with the one column `text`. Missing text (null) becomes an empty string.

    Raises:
        ValueError: if the source does not exist; a file is of an unknown kind, binary, malformed or not UTF-8; files
            are of several kinds; a column or split does not exist; or a column does not hold text.
    """
    if isinstance(source, str) and source in EMBEDDED_TEXTS:
        texts = EMBEDDED_TEXTS[source].generate()
        _check_name("split", split.split("[")[0], texts, f"the embedded data set {source!r}")
        chosen = _slice(texts, split)
        return chosen.to_iterable_dataset() if streaming else chosen
    paths = [Path(source)] if isinstance(source, str | Path) else [Path(path) for path in source]
    where = ", ".join(map(str, paths))
    if len(paths) == 1 and paths[0].is_dir():
        paths = _files_in_folder(paths[0])
        if not paths:
            raise ValueError(f"No text file is given: {where} has none that ends in {', '.join(EXTENSIONS)}.")
    if len(paths) != 1 or file_extension(paths[0]) in EXTENSIONS or paths[0].exists():
        _check_files(paths)
        _check_name("split", split.split("[")[0], ["train"], where)
        reader, settings = _documents, {}
        if file_extension(paths[0]) in TABLE_EXTENSIONS:
            reader, settings = _texts_of_table, {"text_column": text_column}
        elif row == "line":
            reader = _lines
        files = [(str(path),) for path in paths]
        return dataset_of_files(reader, files, TEXT_FEATURES, split=split, streaming=streaming, **settings)
    where = f"the data set {source}"
    with explain_loading_errors(str(source)):
        names = get_dataset_config_names(source, revision=revision) if name is None else []
        if len(names) > 1 and "default" not in names:
            raise ValueError(f"{where} has several configurations; choose one of {', '.join(names)}.")
        splits = get_dataset_split_names(source, name, revision=revision)
        _check_name("split", split.split("[")[0], splits, where)
        texts = load_dataset(source, name, split=split, revision=revision, streaming=streaming)
    if texts.column_names is not None:
        _check_name("column", text_column, texts.column_names, where)
    texts = texts.select_columns([text_column])
    return texts if text_column == "text" else texts.rename_column(text_column, "text")


def _slice(texts: Mapping[str, Dataset], split: str) -> Dataset:
    """Returns a split or a slice of one, such as "train[:95%]", by the rules of the datasets library."""
    (instruction,) = ReadInstruction.from_spec(split).to_absolute({key: len(part) for key, part in texts.items()})
    return texts[instruction.splitname].select(range(instruction.from_, instruction.to))


def _check_name(kind: str, name: str, known: Iterable[str], where: str) -> None:
    if name not in (known := list(known)):
        raise ValueError(f"{where} has no {kind} {name!r}; it has {', '.join(map(repr, known))}.")


def _files_in_folder(folder: Path) -> list[Path]:
    """Returns the files of a folder and its sub-folders that are read, sorted by name; warns about the others."""
    files, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (true_place := os.path.realpath(place)) in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(true_place)
        files += [path for path in (Path(place) / name for name in names) if path.is_file()]
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    files.sort()
    read = [path for path in files if file_extension(path) in EXTENSIONS and path.stem.lower() != "readme"]
    if left := [str(path.relative_to(folder)) for path in files if path not in set(read)]:
        named = ", ".join(left[:FILES_NAMED]) + (", ..." if len(left) > FILES_NAMED else "")
        logger.warning("%s has files that are not read (%d): %s", folder, len(left), named)
    return read


def _check_files(paths: Sequence[Path]) -> None:
    if not paths:
        raise ValueError("No text file is given.")
    for path in paths:
        check_file(path)
        if file_extension(path) not in EXTENSIONS:
            raise ValueError(
                f"{path} ends in none of {', '.join(EXTENSIONS)}, also followed by {' or '.join(COMPRESSIONS)}; "
                "rename or convert it."
            )
        if os.path.getsize(path) == 0:
            raise ValueError(f"{path} is empty; leave it out.")
    kinds = {_kind(path) for path in paths}
    if len(kinds) > 1:
        raise ValueError(f"Files of several kinds are given ({', '.join(sorted(kinds))}); give one kind at a time.")


def _kind(path: Path) -> str:
    extension = file_extension(path)
    if extension in TEXT_EXTENSIONS:
        return "text"
    return "json" if extension in JSON_EXTENSIONS else extension.removeprefix(".")


def _lines_of_text(path: str, place: FilePlace | None = None) -> Iterator[str]:
    for number, line in numbered_lines(path, place):
        # Few lines have a character that cannot be printed, and this question is answered faster than the next one.
        if not without_line_end(line).isprintable() and (binary := BINARY_CHARACTERS.intersection(line)):
            raise ValueError(
                f"{path}, line {number}: the character {min(binary)!r} does not occur in text; this is a binary "
                "file, or text in another encoding than UTF-8."
            )
        yield without_line_end(line) + "\n" if line.endswith("\n") else line


def _documents(path: str, places: Sequence[FilePlace] = ()) -> Iterator[pyarrow.Table]:
    (place,) = places or (FilePlace(),)
    # A stream that continues behind the file's only row finds nothing more.
    return tables_of_rows([{"text": "".join(_lines_of_text(path, place))}] if place.line == 0 else [])


def _lines(path: str, places: Sequence[FilePlace] = ()) -> Iterator[pyarrow.Table]:
    return tables_of_rows({"text": line.removesuffix("\n")} for line in _lines_of_text(path, *places))


def _texts_of_table(path: str, text_column: str, places: Sequence[FilePlace] = ()) -> Iterator[pyarrow.Table]:
    if file_extension(path) != ".parquet":
        rows = table_rows(path, *places)
        return tables_of_rows({"text": _text_of_row(row, text_column, where)} for where, row in rows)
    _check_name("column", text_column, (schema := open_parquet(path).schema_arrow).names, path)
    kind = schema.field(text_column).type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or pyarrow.types.is_null(kind)):
        raise ValueError(f"{path}: the column {text_column!r} holds {kind}, not text.")
    return (
        pyarrow.table({"text": table.column(text_column).cast(pyarrow.large_string()).fill_null("")})
        for table in parquet_tables(path, [text_column], places)
    )


def _text_of_row(row: Mapping[str, Any], text_column: str, where: str) -> str:
    _check_name("column", text_column, row, where)
    return text_of(row[text_column], where, f"the column {text_column!r}")

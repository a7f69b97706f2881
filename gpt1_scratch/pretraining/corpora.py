"""Opens any text data set: the embedded stories, files, or the Hub. `data.py` packs what comes out into blocks."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from datasets import (
    Dataset,
    DatasetDict,
    IterableDataset,
    ReadInstruction,
    get_dataset_config_names,
    get_dataset_split_names,
    load_dataset,
)

from ..stories.corpus import load_stories
from .text_files import check_text_file

STORIES = "stories"

# File endings, and the library's reader for each.
READERS = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".parquet": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
}


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
        source: "stories" for the embedded corpus; a file, a folder of files or several files (text, parquet, JSON
            lines, CSV); or a data set's name on the Hub.
        split: "train" and so on; of files there is only "train". A slice such as "train[:95%]" works unless streaming.
        name: the configuration of a data set on the Hub that has several.
        revision: a branch, tag or commit of a data set on the Hub; default: its main branch.
        text_column: the column with the text.
        row: what becomes a row of a plain text file: the whole file, or a line. Other files come in rows.
        streaming: reads as it goes instead of copying the whole to the cache.

    Returns:
        Rows with the one column `text`.

    Raises:
        ValueError: nothing there, an unknown kind of file, a binary or wrongly encoded one, several kinds at once, or
            a column or split that does not exist.
    """
    if source == STORIES:
        texts = _stories()
        _check_name("split", split.split("[")[0], texts, f"the embedded corpus {STORIES!r}")
        chosen = _slice(texts, split)
        return chosen.to_iterable_dataset() if streaming else chosen
    paths = [Path(source)] if isinstance(source, str | Path) else [Path(path) for path in source]
    where = ", ".join(map(str, paths))
    if len(paths) == 1 and paths[0].is_dir():
        paths = sorted(path for path in paths[0].iterdir() if path.suffix in READERS)
    if len(paths) != 1 or paths[0].suffix in READERS or paths[0].exists():
        if not paths:
            raise ValueError(f"No text file is given{f': {where} has none' if where else ''}.")
        reader, options = _reader(paths, row)
        _check_name("split", split.split("[")[0], ["train"], where)
        texts = load_dataset(
            reader, data_files={"train": [str(path) for path in paths]}, split=split, streaming=streaming, **options
        )
    else:
        where = f"the data set {source}"
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


# Told once in a process, though both splits are loaded.
_stories = functools.cache(load_stories)


def _slice(texts: DatasetDict, split: str) -> Dataset:
    """A split of an embedded corpus, or a slice of one, read as the library reads those of files."""
    (instruction,) = ReadInstruction.from_spec(split).to_absolute({key: len(part) for key, part in texts.items()})
    return texts[instruction.splitname].select(range(instruction.from_, instruction.to))


def _check_name(kind: str, name: str, known: Iterable[str], where: str) -> None:
    if name not in (known := list(known)):
        raise ValueError(f"{where} has no {kind} {name!r}; it has {', '.join(map(repr, known))}.")


def _reader(paths: Sequence[Path], row: str) -> tuple[str, dict[str, str]]:
    for path in paths:
        if not path.is_file():
            raise ValueError(f"There is no file {path}.")
        if path.suffix not in READERS:
            raise ValueError(f"{path} ends in none of {', '.join(READERS)}; rename or convert it.")
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty; leave it out.")
    readers = {READERS[path.suffix] for path in paths}
    if len(readers) > 1:
        raise ValueError(f"Files of several kinds are given ({', '.join(sorted(readers))}); give one kind at a time.")
    (reader,) = readers
    if reader != "parquet":
        for path in paths:
            check_text_file(path)
    return reader, {"sample_by": row} if reader == "text" else {}

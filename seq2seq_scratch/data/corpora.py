"""Sentence pairs from a data set or from files of any usual kind, with errors that name the file, line and column.

Whatever they come from, pairs are two columns of text, `source` and `target`; missing text is an empty string.
"""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from datasets import Dataset, IterableDataset
from datasets.exceptions import DatasetGenerationError
from pyarrow import parquet

from .numbers import load_numbers
from .readers import Pair, PairColumns, Reader, Wanted, _read_json_lines, _read_table, _read_text_files, _text_of

PAIR_FEATURES = datasets.Features({"source": datasets.Value("string"), "target": datasets.Value("string")})


def _read(reader: Reader, paths: tuple[str, ...], wanted: Wanted, stamps: Any) -> Iterator[Pair]:
    pair = None
    for pair in reader(*paths, wanted):
        yield pair
    if pair is None:
        raise ValueError(f"{paths[0]} is empty.")


def _from_files(reader: Reader, paths: tuple[str, ...], wanted: Wanted, streaming: bool) -> Any:
    """A data set of what a reader yields; unless streamed, cached on disk under the arguments of `_read`."""
    # Sizes and times are there so that a changed file is read again. (Lists would be taken for shards to hand out.)
    stamps = tuple((status.st_size, status.st_mtime_ns) for status in map(os.stat, paths))
    arguments = {"reader": reader, "paths": paths, "wanted": wanted, "stamps": stamps}
    if streaming:
        return IterableDataset.from_generator(_read, features=PAIR_FEATURES, gen_kwargs=arguments)
    try:
        return Dataset.from_generator(_read, features=PAIR_FEATURES, gen_kwargs=arguments)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise


def _load_file(setting: str, name: str, wanted: Wanted, streaming: bool) -> Any:
    """One file, or the pair of text files whose names are `name` and the languages."""
    readers = {".jsonl": _read_json_lines, ".json": _read_json_lines, ".csv": _read_table, ".tsv": _read_table}
    extension = Path(name).suffix
    pair = [f"{name}.{language}" for language in (wanted.source_language, wanted.target_language)]
    if extension not in (*readers, ".parquet"):
        missing = [path for path in pair if not Path(path).is_file()]
        if not missing:
            return _from_files(_read_text_files, tuple(pair), wanted, streaming)
        if Path(name).is_file():
            raise ValueError(
                f"{setting}: {name} has the unknown extension {extension!r}. Known are .parquet, "
                f"{', '.join(readers)}; two line-aligned text files are given by what their names share before the "
                f"language, such as {Path(name).stem} for {Path(name).stem}.{wanted.source_language} and "
                f"{Path(name).stem}.{wanted.target_language}."
            )
        raise ValueError(
            f"{setting}: there is no file {name}, nor a pair of text files: {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing."
        )
    if not Path(name).is_file():
        raise ValueError(f"{setting}: there is no file {name}.")
    if extension in readers:
        return _from_files(readers[extension], (name,), wanted, streaming)
    try:
        rows = parquet.read_metadata(name).num_rows
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{setting}: {name} is not a parquet file ({error}).") from error
    if rows == 0:
        raise ValueError(f"{name} is empty.")
    data_files = {"train": name}
    return _as_pairs(
        datasets.load_dataset("parquet", data_files=data_files, streaming=streaming)["train"], wanted, name
    )


def _texts_of_batch(batch: Mapping[str, list[Any]], columns: PairColumns, where: str) -> dict[str, list[str]]:
    names = list(batch)
    rows = (dict(zip(names, values, strict=True)) for values in zip(*batch.values(), strict=True))
    sides = [columns.of_row(row) for row in rows]
    return {
        "source": [_text_of(source, where, columns.source) for source, _ in sides],
        "target": [_text_of(target, where, columns.target) for _, target in sides],
    }


def _as_pairs(dataset: Any, wanted: Wanted, where: str) -> Any:
    """Brings a data set of any columns to `source` and `target`."""
    features = dataset.features
    if features is None:  # a stream of unknown columns: its first row tells
        features = next(iter(dataset.take(1)), {})
    translation = features.get("translation")
    keys = getattr(translation, "languages", None) or (tuple(translation) if isinstance(translation, dict) else ())
    columns = wanted.find(where, tuple(features), keys)
    names = sorted({columns.inside} if columns.inside else {columns.source, columns.target})
    dataset = dataset.select_columns(names)
    if isinstance(dataset, Dataset):
        table = dataset.flatten() if columns.inside else dataset
        prefix = f"{columns.inside}." if columns.inside else ""
        held = [f"{prefix}{columns.source}", f"{prefix}{columns.target}"]
        text = datasets.Value("string"), datasets.Value("large_string")
        # Renaming columns reads nothing; only missing text makes a pass over the data necessary.
        if all(table.features[name] in text and table.data.column(name).null_count == 0 for name in held):
            table = table.select_columns(held).rename_columns(dict(zip(held, ("source", "target"), strict=True)))
            return table.cast(PAIR_FEATURES) if table.features != PAIR_FEATURES else table
    convert = partial(_texts_of_batch, columns=columns, where=where)
    return dataset.map(convert, batched=True, remove_columns=names, features=PAIR_FEATURES)


def load_parallel_data(
    *,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_revision: str | None = None,
    streaming: bool = False,
    train_file: str | None = None,
    validation_file: str | None = None,
    test_file: str | None = None,
    source_language: str,
    target_language: str,
    source_column: str | None = None,
    target_column: str | None = None,
    validation_size: int = 1_000,
    max_train_samples: int | None = None,
    seed: int = 42,
) -> dict[str, Dataset | IterableDataset]:
    """Loads sentence pairs as splits with the two columns `source` and `target`.

    They come from a data set or from files. A data set or file holds either one column `translation` with
    dictionaries from language to text, or one column for each side. Files are told by their extension:

    - `.parquet`;
    - `.jsonl`, `.json`: JSON lines, one object on each;
    - `.csv`, with quoted fields where needed, and `.tsv`, whose fields are taken as they stand; the first line names
      the columns, and a `translation` is written as a JSON object;
    - no such extension: the common start of two line-aligned text files that end in the languages, so `data/train`
      stands for `data/train.en` and `data/train.de`.

    Text must be UTF-8. Missing text (null) becomes an empty string.

    Args:
        dataset_name: `numbers` for the embedded data set, otherwise what `datasets.load_dataset` takes: an id on the
            Hub or a local folder.
        dataset_config_name: its configuration, such as `de-en`.
        dataset_revision: a branch, tag or commit on the Hub.
        streaming: the split `train` is read as it is needed and is an `IterableDataset`; other splits are read whole.
        train_file: gives the split `train`; files cannot be combined with dataset_name.
        validation_file: gives `validation`.
        test_file: gives `test`.
        source_language: what to translate from: a key of `translation`, a column, or the ending of a text file.
        target_language: what to translate to.
        source_column: the source's column where it is not named after the language.
        target_column: the target's.
        validation_size: pairs held out of `train` where there is no split `validation`, at most a tenth of `train`;
            of a stream, its first pairs.
        max_train_samples: only so many pairs of `train` are kept, the first ones.
        seed: decides which pairs are held out.

    Returns:
        The splits by name.

    Raises:
        ValueError: settings that do not go together; a file that is missing, empty, of an unknown kind, not UTF-8 or
            malformed; text files of unequal length; a column or language that is not there. The message names the
            setting, the file, the line and the column.
    """
    files = {"train": train_file, "validation": validation_file, "test": test_file}
    files = {split: name for split, name in files.items() if name is not None}
    if dataset_name is None and not files:
        raise ValueError("There is no data: set dataset_name, or train_file, validation_file or test_file.")
    if dataset_name is not None and files:
        raise ValueError(
            f"dataset_name is {dataset_name!r}, but {', '.join(f'{split}_file' for split in files)} is set too. "
            "Set one or the other."
        )
    if validation_size < 0:
        raise ValueError(f"validation_size is {validation_size}; it must be at least 0.")
    if max_train_samples is not None and max_train_samples < 1:
        raise ValueError(f"max_train_samples is {max_train_samples}; it must be at least 1.")
    wanted = Wanted(source_language, target_language, source_column, target_column)
    if source_language == target_language and (source_column is None or target_column is None):
        raise ValueError(
            f"source_language and target_language are both {source_language!r}; name the columns with source_column "
            "and target_column."
        )

    splits: dict[str, Any]
    if dataset_name == "numbers":
        loaded = load_numbers(source_language, target_language)
        wanted = Wanted(source_language, target_language, None, None)
        splits = {name: _as_pairs(split, wanted, "numbers") for name, split in loaded.items()}
        if streaming:
            splits["train"] = splits["train"].to_iterable_dataset()
    elif dataset_name is not None:
        loaded = datasets.load_dataset(
            dataset_name, dataset_config_name, revision=dataset_revision, streaming=streaming
        )
        splits = {name: _as_pairs(split, wanted, f"{dataset_name}, {name}") for name, split in loaded.items()}
    else:
        splits = {
            split: _load_file(f"{split}_file", name, wanted, streaming and split == "train")
            for split, name in files.items()
        }

    if "train" in splits:
        train = splits["train"]
        if "validation" not in splits and validation_size:
            if isinstance(train, IterableDataset):
                splits["validation"], train = train.take(validation_size), train.skip(validation_size)
            elif held_out := min(validation_size, len(train) // 10):
                parts = train.train_test_split(test_size=held_out, seed=seed)
                train, splits["validation"] = parts["train"], parts["test"]
        if max_train_samples is not None:
            if isinstance(train, Dataset):
                train = train.select(range(min(max_train_samples, len(train))))
            else:
                train = train.take(max_train_samples)
        splits["train"] = train
    return {
        name: Dataset.from_list(list(split), features=PAIR_FEATURES)
        if name != "train" and isinstance(split, IterableDataset)
        else split
        for name, split in splits.items()
    }

"""Loads sentence pairs from a data set or from files, with errors that name the file, line and column.

The result always has two columns of text, `source` and `target`. Missing text is an empty string.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.compute
from datasets import Dataset, IterableDataset

from .embedded import EMBEDDED_PAIRS
from .hub_data import explain_loading_errors
from .readers import (
    TABLE_EXTENSIONS,
    dataset_of_files,
    open_parquet,
    parquet_tables,
    parse_json,
    table_rows,
    tables_of_rows,
    text_of,
)
from .text_lines import COMPRESSIONS, FilePlace, check_file, file_extension, numbered_lines, without_line_end
from .wording import counted

Pair = dict[str, str]

PAIR_FEATURES = datasets.Features({"source": datasets.Value("string"), "target": datasets.Value("string")})


@dataclass(frozen=True)
class PairColumns:
    """The place of the two sides in a row: two columns, or two keys of one column of dictionaries."""

    source: str
    target: str
    inside: str | None = None

    def of_row(self, row: Mapping[str, Any]) -> tuple[Any, Any]:
        sides = row if self.inside is None else row[self.inside] or {self.source: None, self.target: None}
        return sides[self.source], sides[self.target]


@dataclass(frozen=True)
class Wanted:
    """The languages and columns that the user has set, and whether there are settings for the columns."""

    source_language: str
    target_language: str
    source_column: str | None
    target_column: str | None
    has_column_settings: bool = True

    def for_reference(self, column: str) -> "Wanted":
        """Returns what is wanted if another column, key or ending of a text file takes the place of the target's."""
        if self.target_column is not None:
            return replace(self, target_column=column)
        return replace(self, target_language=column)

    def find(self, where: str, columns: Sequence[str], translation_keys: Sequence[str]) -> PairColumns:
        """Returns the columns of the two sides.

        Args:
            where: the file or data set, for error messages.
            columns: the names of its columns.
            translation_keys: the keys of its column `translation`.

        Raises:
            ValueError: if a column or language is missing; the message lists those that exist.
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
                remedy = (
                    f"Set {side}_column, or {side}_language where a column is named after the language."
                    if self.has_column_settings
                    else f"Columns are named after the languages: rename one, or set {side}_language."
                )
                raise ValueError(f"{where}: there is no column {column!r}; it has {', '.join(columns)}. {remedy}")
        if found.source == found.target and None in (self.source_column, self.target_column):
            raise ValueError(
                f"{where}: source and target are both the column {found.source!r}. Set both source_column and "
                "target_column."
            )
        return found


def _pair_of_row(row: Mapping[str, Any], wanted: Wanted, where: str) -> Pair:
    translation = row.get("translation")
    if isinstance(translation, str) and not (wanted.source_column or wanted.target_column):
        # In CSV and TSV the column is a field of text.
        kinds = "translation must be a JSON object from language to text."
        translation = parse_json(translation, f"{where}, translation {translation[:60]!r}", kinds=kinds)
        row = {**row, "translation": translation}
    if translation is None:
        keys = (wanted.source_language, wanted.target_language)  # null: a pair without text
    elif isinstance(translation, dict):
        keys = tuple(translation)
    elif wanted.source_column or wanted.target_column:
        keys = ()
    else:
        raise ValueError(f"{where}: translation holds {translation!r}, not a dictionary from language to text.")
    columns = wanted.find(where, tuple(row), keys)
    source, target = columns.of_row(row)
    return {"source": text_of(source, where, columns.source), "target": text_of(target, where, columns.target)}


def _pairs_of_text_files(source_path: str, target_path: str, places: Sequence[FilePlace]) -> Iterator[Pair]:
    source_place, target_place = places
    sources, targets = numbered_lines(source_path, source_place), numbered_lines(target_path, target_place)
    count = source_place.line
    for source, target in itertools.zip_longest(sources, targets):
        if source is None or target is None:
            rest = 1 + sum(1 for _ in (targets if source is None else sources))
            counts = (count, count + rest) if source is None else (count + rest, count)
            raise ValueError(
                f"{source_path} has {counted(counts[0], 'line')}, but {target_path} has {counts[1]}. "
                "Line-aligned files must have the same number of lines."
            )
        count += 1
        yield {"source": without_line_end(source[1]), "target": without_line_end(target[1])}
    if count == 0:
        raise ValueError(f"{source_path} is empty.")


def _tables_of_text_files(
    source_path: str, target_path: str, places: Sequence[FilePlace] = ()
) -> Iterator[pyarrow.Table]:
    places = places or (FilePlace(), FilePlace())
    return tables_of_rows(_pairs_of_text_files(source_path, target_path, places))


def _tables_of_table(path: str, wanted: Wanted, places: Sequence[FilePlace] = ()) -> Iterator[pyarrow.Table]:
    return tables_of_rows(_pair_of_row(row, wanted, where) for where, row in table_rows(path, *places))


def _tables_of_parquet(path: str, wanted: Wanted, places: Sequence[FilePlace] = ()) -> Iterator[pyarrow.Table]:
    """Reads the two sides alone; the files of a folder may differ in other columns, and in the order of all."""
    schema = open_parquet(path).schema_arrow
    keys: tuple[str, ...] = ()
    if "translation" in schema.names and not (wanted.source_column or wanted.target_column):
        translation = schema.field("translation").type
        if not pyarrow.types.is_struct(translation):  # JSON objects as text, or maps, have keys in each row
            yield from _tables_of_table(path, wanted, places)
            return
        keys = tuple(field.name for field in translation)
    columns = wanted.find(path, schema.names, keys)
    names = [columns.inside] if columns.inside else sorted({columns.source, columns.target})
    for table in parquet_tables(path, names, places):
        texts = {}
        for side, name in (("source", columns.source), ("target", columns.target)):
            if columns.inside:
                column = pyarrow.compute.struct_field(table.column(columns.inside), [name])
            else:
                column = table.column(name)
            texts[side] = _texts_of_column(column, path, name)
        yield pyarrow.table(texts)


def _texts_of_column(column: pyarrow.ChunkedArray, where: str, name: str) -> Any:
    kind = column.type.value_type if pyarrow.types.is_dictionary(column.type) else column.type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or pyarrow.types.is_null(kind):
        return column.cast(pyarrow.large_string()).fill_null("")
    return [text_of(value, where, name) for value in column.to_pylist()]


def _load_file(setting: str, name: str, wanted: Wanted, streaming: bool = False) -> Any:
    """Loads one file, the two text files whose names are `name` followed by the languages, or a folder of either."""
    sides = (_text_file(f"{name}.{side}") for side in (wanted.source_language, wanted.target_language))
    is_folder = Path(name).is_dir() and not all(Path(side).is_file() for side in sides)
    parts = _parts_of_folder(setting, Path(name), wanted) if is_folder else [name]
    if file_extension(parts[0]) not in TABLE_EXTENSIONS:
        pairs = [_pair_of_text_files(setting, part, wanted) for part in parts]
        return dataset_of_files(_tables_of_text_files, pairs, PAIR_FEATURES, streaming=streaming)
    if parts == [name]:
        check_file(name, setting)
    files = [(part,) for part in parts]
    generate = _tables_of_parquet if file_extension(parts[0]) == ".parquet" else _tables_of_table
    return dataset_of_files(generate, files, PAIR_FEATURES, streaming=streaming, wanted=wanted)


def load_pairs(setting: str, name: str, source_language: str, target_language: str) -> Dataset:
    """Loads the pairs that one setting names, for a command that has no settings for columns.

    Args:
        setting: the setting, for messages.
        name: its value: a file, the common prefix of two text files, or a folder (see `load_parallel_data`).
        source_language, target_language: as of `load_parallel_data`.

    Raises:
        ValueError: as of `load_parallel_data`.
    """
    return _load_file(setting, name, Wanted(source_language, target_language, None, None, has_column_settings=False))


def _parts_of_folder(setting: str, folder: Path, wanted: Wanted) -> list[str]:
    """The tables in a folder, or what the names of its pairs of text files share before the language, sorted."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    tables = [str(path) for path in files if file_extension(path) in TABLE_EXTENSIONS]
    plain = (str(path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path) for path in files)
    ending = f".{wanted.source_language}"
    pairs = [path.removesuffix(ending) for path in plain if path.endswith(ending)]
    kinds = {file_extension(path) for path in tables} | ({f"text ({ending})"} if pairs else set())
    if len(kinds) != 1:
        found = f"files of {' and '.join(sorted(kinds))}" if kinds else "no data"
        raise ValueError(
            f"{setting}: the folder {folder} holds {found}. Give it files of one kind: {', '.join(TABLE_EXTENSIONS)}, "
            f"or pairs of text files that end in {ending} and .{wanted.target_language}."
        )
    return tables or pairs


def _pair_of_text_files(setting: str, name: str, wanted: Wanted) -> tuple[str, str]:
    source, target = (_text_file(f"{name}.{side}") for side in (wanted.source_language, wanted.target_language))
    missing = [path for path in (source, target) if not Path(path).is_file()]
    if not missing:
        return source, target
    if Path(name).is_file():
        raise ValueError(
            f"{setting}: {name} has the unknown extension {Path(name).suffix!r}. Known are "
            f"{', '.join(TABLE_EXTENSIONS)}, each also followed by {' or '.join(COMPRESSIONS)}; two line-aligned "
            f"text files are given by what their names share before the language, such as {Path(name).stem} for "
            f"{Path(name).stem}.{wanted.source_language} and {Path(name).stem}.{wanted.target_language}."
        )
    raise ValueError(
        f"{setting}: there is no file {name}, nor a pair of text files: {' and '.join(missing)} "
        f"{'is' if len(missing) == 1 else 'are'} missing."
    )


def _first_of_each_shard(stream: IterableDataset, size: int) -> IterableDataset:
    """The pairs that `stream.skip(size)` leaves out when each shard is read by itself."""
    taken = stream.take(size)
    shards = [taken.shard(stream.num_shards, index) for index in range(min(size, stream.num_shards))]
    return datasets.concatenate_datasets(shards)


def _text_file(path: str) -> str:
    """Returns the name of the file, which may be compressed; the name itself if there is no such file."""
    return next((path + end for end in ("", *COMPRESSIONS) if Path(path + end).is_file()), path)


def _texts_of_batch(batch: Mapping[str, list[Any]], columns: PairColumns, where: str) -> dict[str, list[str]]:
    names = list(batch)
    rows = (dict(zip(names, values, strict=True)) for values in zip(*batch.values(), strict=True))
    sides = [columns.of_row(row) for row in rows]
    return {
        "source": [text_of(source, where, columns.source) for source, _ in sides],
        "target": [text_of(target, where, columns.target) for _, target in sides],
    }


def _as_pairs(dataset: Any, wanted: Wanted, where: str) -> Any:
    """Converts a data set to the columns `source` and `target`."""
    features = dataset.features
    if features is None:  # a stream of unknown columns: the first row has them
        features = next(iter(dataset.take(1)), {})
    translation = features.get("translation")
    keys = getattr(translation, "languages", None) or (tuple(translation) if isinstance(translation, dict) else ())
    columns = wanted.find(where, tuple(features), keys)
    names = sorted({columns.inside} if columns.inside else {columns.source, columns.target})
    dataset = dataset.select_columns(names)
    if isinstance(dataset, Dataset) and columns.source != columns.target:
        table = dataset.flatten() if columns.inside else dataset
        prefix = f"{columns.inside}." if columns.inside else ""
        held = [f"{prefix}{columns.source}", f"{prefix}{columns.target}"]
        text = datasets.Value("string"), datasets.Value("large_string")
        # Renaming columns does not read the data. A pass over the data is only needed to replace missing text.
        if all(table.features[name] in text and table.data.column(name).null_count == 0 for name in held):
            table = table.select_columns(held).rename_columns(dict(zip(held, ("source", "target"), strict=True)))
            return table.cast(PAIR_FEATURES) if table.features != PAIR_FEATURES else table
    convert = partial(_texts_of_batch, columns=columns, where=where)
    return dataset.map(convert, batched=True, remove_columns=names, features=PAIR_FEATURES)


def _first(split: Dataset | IterableDataset, number: int | None) -> Dataset | IterableDataset:
    if number is None or isinstance(split, IterableDataset):
        return split if number is None else split.take(number)
    return split.select(range(min(number, len(split))))


def _of(split: str, reference_columns: Sequence[str]) -> Sequence[str]:
    return () if split in ("train", "validation") else reference_columns


def _with_references(load: Callable[..., Any], wanted: Wanted, columns: Sequence[str]) -> Any:
    """Returns the pairs that `load(wanted=...)` loads, with the column `references` if there are further ones.

    Raises:
        ValueError: if a column does not exist, or pairs cannot be loaded.
    """
    pairs = load(wanted=wanted)
    if not columns:
        return pairs
    further = []
    for column in columns:
        try:
            other = load(wanted=wanted.for_reference(column))
        except ValueError as error:
            raise ValueError(f"reference_columns names {column!r}: {error}") from error
        further.append([pair["target"] for pair in other])
    pairs = Dataset.from_list(list(pairs), features=PAIR_FEATURES)
    references = [list(texts) for texts in zip(pairs["target"], *further, strict=True)]
    return pairs.add_column("references", references)


def _hold_out(train: Any, size: int, seed: int) -> tuple[Any, Dataset | None]:
    """Returns a corpus without the pairs that are held out for validation, and these; None if there are none."""
    if isinstance(train, IterableDataset):
        held_out = Dataset.from_list(list(_first_of_each_shard(train, size)), features=PAIR_FEATURES)
        return train.skip(size), held_out
    if not (size := min(size, len(train) // 10)):
        return train, None
    parts = train.train_test_split(test_size=size, seed=seed)
    return parts["train"], parts["test"]


def load_parallel_data(
    *,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_revision: str | None = None,
    streaming: bool = False,
    train_file: str | Sequence[str] | None = None,
    validation_file: str | None = None,
    test_file: str | Sequence[str] | None = None,
    source_language: str,
    target_language: str,
    source_column: str | None = None,
    target_column: str | None = None,
    reference_columns: Sequence[str] = (),
    validation_size: int = 1_000,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    seed: int = 42,
) -> dict[str, Any]:
    """Loads sentence pairs as splits with the two columns `source` and `target`.

    A data set or file has either one column `translation` with dictionaries from language to text, or one column for
    each side. The extension of a file decides how it is read:

    - `.parquet`;
    - `.jsonl`, `.ndjson`, `.json`: JSON lines with one object on each line, or one JSON list of objects;
    - `.csv`, whose fields may be quoted, and `.tsv`, whose fields are read as they are. The first line names the
      columns, and a `translation` is a JSON object;
    - no such extension: the name is the common prefix of two line-aligned text files that end in the languages, so
      `data/train` means `data/train.en` and `data/train.de`.

    A folder stands for all of its files of one of these kinds. A file may be compressed, with `.gz`, `.xz` or `.zst`
    after its extension. Text must be UTF-8. Missing text (null) becomes an empty string.

    Args:
        dataset_name: the name of an embedded data set (`EMBEDDED_PAIRS`), such as `numbers`, or what
            `datasets.load_dataset` takes: an id on the Hub or a local folder.
        dataset_config_name: the configuration of the data set, such as `de-en`.
        dataset_revision: a branch, tag or commit of the data set on the Hub.
        streaming: True to read the split `train` as it is needed, as an `IterableDataset`. Other splits are read
            completely.
        train_file: the file of the split `train`; files cannot be combined with `dataset_name`. A list of files gives
            a list of data sets, one for each corpus, and the limits below hold for each of them.
        validation_file: the file of the split `validation`.
        test_file: the file of the split `test`. A list of files gives a list of data sets.
        source_language: the language to translate from: a key of `translation`, the name of a column, or the ending of
            a text file.
        target_language: the language to translate to.
        source_column: the column of the source. Default: the column named after the language.
        target_column: the column of the target.
        reference_columns: where further references of the target are: the columns (or keys of `translation`, or
            endings of text files) that take the place of the target's. All splits but `train` and `validation` then
            have the further column `references`, a list for each pair that begins with the target.
        validation_size: number of pairs of `train` that are held out if there is no split `validation`, at most a
            tenth of `train`. From a stream, the first pairs of its files or shards are held out, equally many of each.
            Several corpora give equally many each.
        max_train_samples: maximum number of pairs of `train`, from the first; of a stream that is split into shards,
            equally many of each.
        max_eval_samples: maximum number of pairs of `validation`, from the first.
        seed: determines which pairs are held out.

    Returns:
        The splits by name: data sets, of which `train` may be a stream, and `train` and `test` may be lists.

    Raises:
        ValueError: if settings contradict each other; a file is missing, empty, of an unknown kind, not UTF-8 or
            malformed; text files differ in length; or a column or language does not exist. The message names the
            setting, the file, the line and the column.
    """
    files = {"train": train_file, "validation": validation_file, "test": test_file}
    files = {split: name for split, name in files.items() if name is not None and name != []}
    if dataset_name is None and not files:
        raise ValueError("There is no data: set dataset_name, or train_file, validation_file or test_file.")
    if dataset_name is not None and files:
        raise ValueError(
            f"dataset_name is {dataset_name!r}, but {', '.join(f'{split}_file' for split in files)} is set too. "
            "Set one or the other."
        )
    if dataset_name is not None and Path(dataset_name).is_file():
        raise ValueError(
            f"dataset_name is {dataset_name!r}, which is a file. Name it with train_file, validation_file or "
            "test_file."
        )
    if validation_size < 0:
        raise ValueError(f"validation_size is {validation_size}; it must be at least 0.")
    for name, number in (("max_train_samples", max_train_samples), ("max_eval_samples", max_eval_samples)):
        if number is not None and number < 1:
            raise ValueError(f"{name} is {number}; it must be at least 1.")
    wanted = Wanted(source_language, target_language, source_column, target_column)
    if source_language == target_language and (source_column is None or target_column is None):
        raise ValueError(
            f"source_language and target_language are both {source_language!r}; name the columns with source_column "
            "and target_column."
        )

    splits: dict[str, Any]
    if dataset_name in EMBEDDED_PAIRS:
        loaded = EMBEDDED_PAIRS[dataset_name].generate(source_language, target_language)
        wanted = Wanted(source_language, target_language, None, None)
        splits = {
            name: _with_references(partial(_as_pairs, split, where=dataset_name), wanted, _of(name, reference_columns))
            for name, split in loaded.items()
        }
        if streaming:
            splits["train"] = splits["train"].to_iterable_dataset()
    elif dataset_name is not None:
        with explain_loading_errors(dataset_name):
            loaded = datasets.load_dataset(
                dataset_name, dataset_config_name, revision=dataset_revision, streaming=streaming
            )
        splits = {
            name: _with_references(
                partial(_as_pairs, split, where=f"{dataset_name}, {name}"), wanted, _of(name, reference_columns)
            )
            for name, split in loaded.items()
        }
    else:
        splits = {}
        for split, name in files.items():
            load = partial(_load_file, f"{split}_file", streaming=streaming and split == "train")
            loaded = [
                _with_references(partial(load, each), wanted, _of(split, reference_columns))
                for each in ([name] if isinstance(name, str) else name)
            ]
            splits[split] = loaded[0] if isinstance(name, str) else loaded

    if "train" in splits:
        several = isinstance(splits["train"], list)
        corpora = splits["train"] if several else [splits["train"]]
        if "validation" not in splits and validation_size:
            size = max(1, validation_size // len(corpora))
            corpora, held_out = zip(*(_hold_out(corpus, size, seed) for corpus in corpora), strict=True)
            if held_out := [part for part in held_out if part is not None]:
                splits["validation"] = held_out[0] if len(held_out) == 1 else datasets.concatenate_datasets(held_out)
        corpora = [_first(corpus, max_train_samples) for corpus in corpora]
        splits["train"] = corpora if several else corpora[0]
    if "validation" in splits:
        splits["validation"] = _first(splits["validation"], max_eval_samples)
    return {
        name: Dataset.from_list(list(split), features=PAIR_FEATURES)
        if name != "train" and isinstance(split, IterableDataset)
        else split
        for name, split in splits.items()
    }

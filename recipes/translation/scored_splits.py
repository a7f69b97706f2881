"""The test sets of a run or of a command that scores: their names, their texts and their references."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from papers_to_gpt.settings.corpora import names_of_files
from papers_to_gpt.settings.decoding import ScoringSettings
from seq2seq_scratch.data.corpora import load_parallel_data


def load_test_sets(settings: ScoringSettings) -> dict[str, Dataset]:
    """Returns the splits that the settings choose, by name.

    Raises:
        ValueError: if the data cannot be read, has no such split, or the split has no further references.
    """
    splits = load_parallel_data(**{name: getattr(settings, name) for name in LOADING_SETTINGS})
    splits = named_test_sets(splits, settings.test_file)
    # Of several files all are scored, unless the setting chooses some of them.
    names = [*splits] if settings.split == ["test"] and len(settings.test_file) > 1 else settings.split
    missing = [name for name in names if name not in splits]
    if missing:
        raise ValueError(f"split names {', '.join(missing)}; the data has {', '.join(splits)}.")
    splits = {name: splits[name] for name in names}
    alone = [
        name for name, texts in splits.items() if settings.reference_columns and "references" not in texts.features
    ]
    if alone:
        raise ValueError(f"reference_columns is set, but split names {', '.join(alone)}: only test sets have them.")
    return splits


def named_test_sets(splits: dict[str, Any], files: Sequence[str]) -> dict[str, Any]:
    """Returns the splits with each test set of several files under a name of its own, such as `test_newstest2014`."""
    sets = splits.get("test")
    if not isinstance(sets, list):
        return splits
    names = ["test"] if len(sets) == 1 else [f"test_{name}" for name in names_of_files(files)]
    others = {name: split for name, split in splits.items() if name != "test"}
    return others | dict(zip(names, sets, strict=True))


def references_of(texts: Dataset) -> Sequence[Any]:
    """Returns the reference of each pair, or the list of its references if there are further ones."""
    return texts["references" if "references" in texts.features else "target"][:]


LOADING_SETTINGS = (
    "dataset_name dataset_config_name dataset_revision test_file "
    "source_language target_language source_column target_column reference_columns"
).split()

"""Stores tables that a function yields in the cache of `datasets`.

This class is in a separate file, because the library replaces `open`, `Path` and others in the module of a builder by
its own versions, which read a name with `::` as an address.

The packages do not import each other, and each has this file; a test compares them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow
from datasets.builder import Key


@dataclass
class TableBuilderConfig(datasets.BuilderConfig):
    generate: Callable[..., Iterator[pyarrow.Table]] | None = None
    files: tuple[tuple[str, ...], ...] = ()
    # The sizes and times of the files, so that a changed file is read again.
    stamps: tuple[tuple[int, int], ...] = ()
    arguments: Mapping[str, Any] | None = None
    features: datasets.Features | None = None


class TableBuilder(datasets.ArrowBasedBuilder):
    """Stores tables that a function yields.

    The library's readers would interpret a file's name as a pattern or an address. Its `Dataset.from_generator` takes
    single rows, which is three times slower.
    """

    BUILDER_CONFIG_CLASS = TableBuilderConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=self.config.features)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name="train")]

    def _generate_tables(self) -> Iterator[tuple[Key, pyarrow.Table]]:
        schema = self.config.features.arrow_schema
        for shard, paths in enumerate(self.config.files):
            for number, table in enumerate(self.config.generate(*paths, **self.config.arguments)):
                yield Key(shard, number), datasets.table.table_cast(table, schema)

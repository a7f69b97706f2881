"""Streams the tables that a function reads from files, starting at any place in the files.

To resume within a file, a stream that `datasets` makes of a generator reads the file again from its beginning. This
one stores the place in the file, so the time to resume does not depend on it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import astuple
from typing import Any

import datasets
import numpy as np
import pyarrow
from datasets.iterable_dataset import _BaseExamplesIterable

from .text_lines import FilePlace


class StreamedTables(_BaseExamplesIterable):
    """What an `IterableDataset` reads; each of the files, or of the tuples of files that belong together, is a shard.

    Args:
        generate: function from the names of files that belong together, `places` and the further arguments to tables
            (see `dataset_of_files`). From the same places it yields the same tables.
        files: the names, a tuple for each shard.
        arguments: the further arguments.
        features: columns and types of the tables.
    """

    def __init__(
        self,
        generate: Callable[..., Iterator[pyarrow.Table]],
        files: Sequence[tuple[str, ...]],
        arguments: Mapping[str, Any],
        features: datasets.Features,
    ):
        super().__init__()
        self.generate, self.files, self.arguments, self._features = generate, list(files), arguments, features

    @property
    def features(self) -> datasets.Features:
        return self._features

    @property
    def is_typed(self) -> bool:
        return True

    @property
    def iter_arrow(self) -> Callable[[], Iterator[tuple[str, pyarrow.Table]]]:
        return self._iter_arrow

    @property
    def num_shards(self) -> int:
        return len(self.files)

    def _init_state_dict(self) -> dict[str, Any]:
        # `rows` counts the rows behind the places, where rows are asked for one by one.
        self._state_dict = {"shard_idx": 0, "places": None, "rows": 0, "type": type(self).__name__}
        return self._state_dict

    def _tables(self) -> Iterator[tuple[str, pyarrow.Table, list[tuple[int, ...]]]]:
        """Yields a key, a table and the places behind it; the caller notes them in the state."""
        state = self._state_dict or {"shard_idx": 0, "places": None}
        begin, places = state["shard_idx"], state["places"]
        for shard in range(begin, len(self.files)):
            names = self.files[shard]
            at = [FilePlace(*place) for place in places] if places else [FilePlace() for _ in names]
            for table in self.generate(*names, places=at, **self.arguments):
                behind = [astuple(place) for place in at]
                key = f"{shard}_{behind}"
                yield key, datasets.table.table_cast(table, self._features.arrow_schema), behind
            places = None
            if self._state_dict:
                self._state_dict.update(shard_idx=shard + 1, places=None, rows=0)

    def _iter_arrow(self) -> Iterator[tuple[str, pyarrow.Table]]:
        for key, table, behind in self._tables():
            if self._state_dict:
                self._state_dict["places"] = behind
            yield key, table

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        skip = self._state_dict["rows"] if self._state_dict else 0
        for key, table, behind in self._tables():
            for number, row in enumerate(table.to_pylist()[skip:], skip + 1):
                if self._state_dict:
                    self._state_dict["rows"] = number
                yield f"{key}_{number}", row
            skip = 0
            if self._state_dict:
                self._state_dict.update(places=behind, rows=0)

    def shuffle_data_sources(self, generator: np.random.Generator) -> "StreamedTables":
        order = deepcopy(generator).permutation(len(self.files))
        return StreamedTables(self.generate, [self.files[i] for i in order], self.arguments, self._features)

    def shard_data_sources(self, num_shards: int, index: int, contiguous: bool = True) -> "StreamedTables":
        chosen = self.split_shard_indices_by_worker(num_shards, index, contiguous=contiguous)
        return StreamedTables(self.generate, [self.files[i] for i in chosen], self.arguments, self._features)

    def reshard_data_sources(self) -> "StreamedTables":
        return StreamedTables(self.generate, self.files, self.arguments, self._features)

"""Reads the shards of a stream: the files of one corpus or of several, or the shards of a data set on the Hub."""

import lzma
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow
from datasets import IterableDataset
from datasets.exceptions import DatasetGenerationError

from papers_to_gpt.engine.mixture import next_corpus

Columns = dict[str, list[Any]]

# What reading a damaged file raises. A lost connection is no damage, see `ShardReader`.
DAMAGES = (ValueError, OSError, EOFError, lzma.LZMAError, zlib.error, pyarrow.ArrowException, DatasetGenerationError)


class Shards:
    """The shards of one or several streamed corpora, numbered one corpus behind the other.

    Args:
        corpora: the streams.
        names: their names, for messages and results.
    """

    def __init__(self, corpora: Sequence[IterableDataset], names: Sequence[str] = ("",)):
        self.corpora, self.names = list(corpora), list(names)
        self.places = [(each, index) for each, corpus in enumerate(corpora) for index in range(corpus.num_shards)]

    @property
    def num_shards(self) -> int:
        return len(self.places)

    def of_corpus(self, corpus: int) -> list[int]:
        """Returns the numbers of the shards of a corpus."""
        return [number for number, (each, _) in enumerate(self.places) if each == corpus]

    def corpus_of(self, number: int) -> int:
        """Returns the index of the corpus that a shard belongs to."""
        return self.places[number][0]

    def open(self, number: int) -> IterableDataset:
        """Returns the stream of one shard."""
        corpus, index = self.places[number]
        return self.corpora[corpus].shard(self.corpora[corpus].num_shards, index)

    def describe(self, number: int) -> str:
        """Returns how messages name a shard."""
        corpus, index = self.places[number]
        of_corpus = f" of {self.names[corpus]}" if len(self.corpora) > 1 else ""
        return f"shard {index + 1} of {self.corpora[corpus].num_shards}{of_corpus}"


class ShardReader:
    """Reads one reader's share of the shards, chunk by chunk.

    Of `count` readers each reads every `count`-th shard. The shards that are left over, or all of them if there are
    fewer shards than readers, are split by row: all readers read them, and each keeps every `count`-th row.

    Args:
        rows: the stream, or the shards of several.
        order: indices of the shards in the order of the epoch.
        index, count: this reader and their number.
        chunk_size: number of rows that are read at a time.
        skip_broken_shards: continues with the next shard where one cannot be read.
        position: from `position` of another reader of the same shards; None begins at the beginning.

    Attributes:
        broken: for each shard that was skipped so far, its index and what is wrong with it.
    """

    def __init__(
        self,
        rows: IterableDataset | Shards,
        order: Sequence[int],
        index: int,
        count: int,
        *,
        chunk_size: int,
        skip_broken_shards: bool = False,
        position: Mapping[str, Any] | None = None,
    ):
        self.rows = rows if isinstance(rows, Shards) else Shards([rows])
        self.index, self.count = index, count
        self.chunk_size, self.skip_broken_shards = chunk_size, skip_broken_shards
        split = len(order) - len(order) % count
        self.shards = [*order[:split][index::count], *order[split:]]
        self.own = split // count
        position = position or {"shard": 0, "row": 0, "inside": None, "broken": []}
        self.shard, self.row, self.inside = position["shard"], position["row"], position["inside"]
        self.broken: list[tuple[int, str]] = [(shard, what) for shard, what in position["broken"]]

    def position(self) -> dict[str, Any]:
        """Returns the position behind the last chunk: the shard, the row in it and the library's own state of it."""
        return {"shard": self.shard, "row": self.row, "inside": self.inside, "broken": [*self.broken]}

    def __iter__(self) -> Iterator[Columns]:
        """Iterates over the columns of one chunk of rows after another.

        Raises:
            ValueError: if a shard cannot be read and `skip_broken_shards` is off.
        """
        while self.shard < len(self.shards):
            shard = self.rows.open(self.shards[self.shard])
            if self.inside is not None:
                shard.load_state_dict(self.inside)
            chunks = iter(shard.iter(batch_size=self.chunk_size))
            while (chunk := self._next(chunks)) is not None:
                begin, size = self.row, len(next(iter(chunk.values())))
                self.row, self.inside = begin + size, shard.state_dict()
                if self.shard >= self.own:
                    # The first row of the next shard belongs to the next reader, so that shards of one row are shared.
                    first = (self.index - (self.shard - self.own) - begin) % self.count
                    chunk = {name: values[first :: self.count] for name, values in chunk.items()}
                if next(iter(chunk.values())):
                    yield chunk
            self.shard, self.row, self.inside = self.shard + 1, 0, None

    def _next(self, chunks: Iterator[Columns]) -> Columns | None:
        try:
            return next(chunks, None)
        except (ConnectionError, TimeoutError):
            raise
        except DAMAGES as error:
            number = self.shards[self.shard]
            cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
            behind = f", behind its row {self.row:,}" if self.row else ""
            what = f"{self.rows.describe(number)}{behind}: {cause}"
            if not self.skip_broken_shards:
                raise ValueError(
                    f"The stream cannot be read: {what} Repair or remove it, or set skip_broken_shards true to leave "
                    "out the rest of such shards."
                ) from error
            self.broken.append((number, what))
            return None


def rows_of_stream(rows: IterableDataset, skip_broken_shards: bool, chunk_size: int = 100) -> Iterator[dict[str, Any]]:
    """Iterates over the rows of a stream from its first, for example to learn a vocabulary."""
    reader = ShardReader(
        rows, range(rows.num_shards), 0, 1, chunk_size=chunk_size, skip_broken_shards=skip_broken_shards
    )
    for chunk in reader:
        yield from (dict(zip(chunk, values, strict=True)) for values in zip(*chunk.values(), strict=True))


def rows_of_streams(
    corpora: Sequence[IterableDataset], weights: Sequence[float] | None, skip_broken_shards: bool
) -> Iterator[dict[str, Any]]:
    """Iterates over the rows of several streams, each from its first, in the shares of their weights.

    Without weights the streams take turns. A stream that ends leaves its turns to the others.
    """
    rows = {corpus: rows_of_stream(each, skip_broken_shards) for corpus, each in enumerate(corpora)}
    shares, taken = list(weights or [1.0] * len(corpora)), [0] * len(corpora)
    while rows:
        corpus = next_corpus(shares, taken)
        row = next(rows[corpus], None)
        if row is None:
            del rows[corpus]
            shares[corpus] = 0.0
            continue
        taken[corpus] += 1
        yield row

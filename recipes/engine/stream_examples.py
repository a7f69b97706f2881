"""The examples of a stream in the order in which one reader takes them: of one corpus, or of several with weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from papers_to_gpt.engine.batching import Collate
from papers_to_gpt.engine.mixture import next_corpus
from papers_to_gpt.engine.shard_reader import Columns, ShardReader, Shards

Example = Mapping[str, Any]
# From the columns of some rows, and what the rows before left over (None at first), to examples and what is left over.
Prepare = Callable[[Columns, Any], tuple[list[Example], Any]]


@dataclass(frozen=True)
class Stream:
    """What all readers of a stream have in common; the attributes are the arguments of `StreamBatches`."""

    shards: Shards
    weights: Sequence[float] | None
    prepare: Prepare
    lengths_of: Callable[[Example], Sequence[int]]
    collate: Collate
    max_tokens_per_batch: int
    seed: int
    window: int
    chunk_size: int
    skip_broken_shards: bool


class CorpusReader:
    """The examples that one reader takes in one pass over some shards.

    Args:
        stream: the stream.
        order: the numbers of the shards in the order of the pass.
        index, count: the reader and their number.
        place: from `place` of another one, to continue behind its last example; None begins at the beginning.
    """

    def __init__(
        self, stream: Stream, order: Sequence[int], index: int, count: int, place: Mapping[str, Any] | None = None
    ):
        place = place or {"examples": 0, "left_over": None, "rows": None}
        self.stream, self._place = stream, {name: place[name] for name in ("examples", "left_over", "rows")}
        self.left_over = place["left_over"]
        self.reader = ShardReader(
            stream.shards,
            order,
            index,
            count,
            chunk_size=stream.chunk_size,
            skip_broken_shards=stream.skip_broken_shards,
            position=place["rows"],
        )

    def __iter__(self) -> Iterator[tuple[int, Example]]:
        """Iterates over the examples, each with the index of the corpus that it, or its last row, is from."""
        taken, begin = self._place["examples"], self.reader.position()
        for chunk in self.reader:
            corpus = self.stream.shards.corpus_of(self.reader.shards[self.reader.shard])
            examples, left_over_behind = self.stream.prepare(chunk, self.left_over)
            for count, example in enumerate(examples[taken:], taken + 1):
                self._place = {"examples": count, "left_over": self.left_over, "rows": begin}
                yield corpus, example
            taken, self.left_over, begin = 0, left_over_behind, self.reader.position()

    def place(self) -> dict[str, Any]:
        """Returns where the last example ends."""
        return self._place

    def broken(self) -> list[tuple[int, str]]:
        """Returns the broken shards so far, see `ShardReader`."""
        return [*self.reader.broken]


class WholeStream(CorpusReader):
    """The examples that one reader takes in an epoch that has every row of every corpus once."""

    def __init__(self, stream: Stream, epoch: int, index: int, count: int, position: Mapping[str, Any]):
        order = np.random.default_rng([stream.seed, epoch]).permutation(stream.shards.num_shards)
        super().__init__(stream, order.tolist(), index, count, position)


class MixedStream:
    """The examples that one reader takes from corpora with weights, without end.

    The corpora give examples in the shares of their weights (`next_corpus`). One that is read to its end begins again,
    with its shards in another order.

    Args:
        stream, epoch, index, count: as in `ReaderBatches`.
        position: holds, or is to hold, what `place` returns.
    """

    def __init__(self, stream: Stream, epoch: int, index: int, count: int, position: Mapping[str, Any]):
        self.stream, self.epoch, self.index, self.count = stream, epoch, index, count
        corpora = range(len(stream.shards.corpora))
        places = position.get("corpora") or [{"pass": 0, "taken": 0, "inside": None} for _ in corpora]
        self.passes, self.taken = ([place[name] for place in places] for name in ("pass", "taken"))
        self.readers = [self._reader(corpus, places[corpus]["inside"]) for corpus in corpora]

    def _reader(self, corpus: int, place: Mapping[str, Any] | None) -> CorpusReader:
        generator = np.random.default_rng([self.stream.seed, self.epoch, corpus, self.passes[corpus]])
        order = generator.permutation(self.stream.shards.of_corpus(corpus)).tolist()
        return CorpusReader(self.stream, order, self.index, self.count, place)

    def __iter__(self) -> Iterator[tuple[int, Example]]:
        """Iterates over the examples, each with the index of its corpus.

        Raises:
            ValueError: if a corpus has no example for this reader.
        """
        examples = [self._passes_over(corpus) for corpus in range(len(self.readers))]
        while True:
            corpus = next_corpus(self.stream.weights, self.taken)
            example = next(examples[corpus])
            self.taken[corpus] += 1
            yield corpus, example

    def _passes_over(self, corpus: int) -> Iterator[Example]:
        resumed = self.readers[corpus].place()["rows"] is not None
        while True:
            reader, found = self.readers[corpus], resumed
            begin = reader.left_over
            for _, example in reader:
                found = True
                yield example
            # Tokens that are left over grow until they fill a block, so that short texts give one in a later pass.
            if not found and reader.left_over == begin:
                raise ValueError(
                    f"Reader {self.index + 1} of {self.count} finds no example in {self.stream.shards.names[corpus]}. "
                    "If it has any, they are fewer than the readers (processes times dataloader_num_workers): use "
                    "fewer of them, or leave the file out."
                )
            resumed = False
            self.passes[corpus] += 1
            rows = {"shard": 0, "row": 0, "inside": None, "broken": [*dict(reader.broken()).items()]}
            self.readers[corpus] = self._reader(corpus, {"examples": 0, "left_over": reader.left_over, "rows": rows})

    def place(self) -> dict[str, Any]:
        """Returns where the last example ends, in every corpus."""
        columns = zip(self.passes, self.taken, self.readers, strict=True)
        return {
            "corpora": [{"pass": number, "taken": taken, "inside": each.place()} for number, taken, each in columns]
        }

    def broken(self) -> list[tuple[int, str]]:
        """Returns the broken shards so far, see `ShardReader`."""
        return [broken for reader in self.readers for broken in reader.broken()]

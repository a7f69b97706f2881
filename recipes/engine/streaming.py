"""Batches from a stream that is too large to index, with a position from which a run resumes without reading again.

    shards of the stream (files, or those of a data set on the Hub)
      -> split over the processes of the run and their workers: `ShardReader`
      -> rows, prepared chunk by chunk (tokenised, packed) into examples
      -> windows of examples, sorted by length and cut into batches: `ReaderBatches`
      -> the updates of a run: `StreamBatches`

Every random choice follows from the seed, the epoch, the reader and the number of its window. So the position of a
reader is small: the place in its shard where the present window begins, and the number of batches taken from it.
"""

import itertools
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow
import torch
from datasets import IterableDataset
from datasets.exceptions import DatasetGenerationError
from torch.utils.data import DataLoader, get_worker_info
from tqdm import tqdm

from papers_to_gpt.engine.batching import (
    WORKER_TIMEOUT_SECONDS,
    Batch,
    Collate,
    LocalBatch,
    cut_into_batches,
    naming_lost_workers,
    order_by_length,
    share_of_update,
)

Columns = dict[str, list[Any]]
Example = Mapping[str, Any]
# From the columns of some rows, and what the rows before left over (None at first), to examples and what is left over.
Prepare = Callable[[Columns, Any], tuple[list[Example], Any]]

# What reading a damaged file raises. A lost connection is no damage, see `ShardReader`.
DAMAGES = (ValueError, OSError, EOFError, lzma.LZMAError, zlib.error, pyarrow.ArrowException, DatasetGenerationError)

BROKEN_SHARDS_NAMED = 3


class ShardReader:
    """Reads one reader's share of the shards, chunk by chunk.

    Of `count` readers each reads every `count`-th shard. The shards that are left over, or all of them if there are
    fewer shards than readers, are split by row: all readers read them, and each keeps every `count`-th row.

    Args:
        rows: the stream.
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
        rows: IterableDataset,
        order: Sequence[int],
        index: int,
        count: int,
        *,
        chunk_size: int,
        skip_broken_shards: bool = False,
        position: Mapping[str, Any] | None = None,
    ):
        self.rows, self.index, self.count = rows, index, count
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
            shard = self.rows.shard(self.rows.num_shards, self.shards[self.shard])
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
            what = f"shard {number + 1} of {self.rows.num_shards}{behind}: {cause}"
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


@dataclass(frozen=True)
class Stream:
    """What all readers of a stream have in common; the attributes are the arguments of `StreamBatches`."""

    rows: IterableDataset
    prepare: Prepare
    lengths_of: Callable[[Example], Sequence[int]]
    collate: Collate
    max_tokens_per_batch: int
    seed: int
    window: int
    chunk_size: int
    skip_broken_shards: bool


@dataclass(frozen=True)
class ReadBatch:
    """A batch, the reader's position behind it, and the broken shards that were skipped (see `ShardReader`)."""

    tensors: Batch | None
    position: dict[str, Any]
    broken: list[tuple[int, str]]


class ReaderBatches(torch.utils.data.IterableDataset):
    """The batches that one reader makes of its share of an epoch, each with the reader's position behind it.

    Args:
        stream: the stream.
        epoch: the epoch, from 0; it decides the order of the shards.
        index, count: this reader and their number.
        position: where to begin; None begins at the beginning.
    """

    def __init__(self, stream: Stream, epoch: int, index: int, count: int, position: Mapping[str, Any] | None):
        self.stream, self.epoch, self.index, self.count = stream, epoch, index, count
        self.position = position or {"window": 0, "batches": 0, "examples": 0, "left_over": None, "rows": None}

    def __iter__(self) -> Iterator[ReadBatch | str]:
        """Iterates over the batches; the last item has none. In a worker, an error for the user comes as its message:
        raised there, it would arrive within a traceback."""
        if get_worker_info() is None:
            yield from self._batches()
            return
        try:
            yield from self._batches()
        except ValueError as error:
            yield str(error)

    def _batches(self) -> Iterator[ReadBatch]:
        stream, number, done = self.stream, self.position["window"], self.position["batches"]
        places = self._examples()
        begin = self._place
        while window := list(itertools.islice(places, stream.window)):
            generator = np.random.default_rng([stream.seed, self.epoch, self.index, number])
            lengths = np.array([stream.lengths_of(example) for example in window])
            batches = cut_into_batches(lengths, order_by_length(lengths, generator), stream.max_tokens_per_batch)
            for count, index in enumerate(generator.permutation(len(batches))[done:], done + 1):
                batch = stream.collate([window[row] for row in batches[index]])
                yield ReadBatch(batch, {"window": number, "batches": count, **begin}, [*self._reader.broken])
            number, done, begin = number + 1, 0, self._place
        yield ReadBatch(None, {"window": number, "batches": 0, **begin}, [*self._reader.broken])

    def _examples(self) -> Iterator[Example]:
        """Returns an iterator over the examples; `_place` is where the one that it gave last ends."""
        stream = self.stream
        self._place = {name: self.position[name] for name in ("examples", "left_over", "rows")}
        generator = np.random.default_rng([stream.seed, self.epoch])
        self._reader = ShardReader(
            stream.rows,
            generator.permutation(stream.rows.num_shards).tolist(),
            self.index,
            self.count,
            chunk_size=stream.chunk_size,
            skip_broken_shards=stream.skip_broken_shards,
            position=self.position["rows"],
        )
        return self._prepared(self._reader)

    def _prepared(self, reader: ShardReader) -> Iterator[Example]:
        taken, left_over, begin = self.position["examples"], self.position["left_over"], reader.position()
        for chunk in reader:
            examples, left_over_behind = self.stream.prepare(chunk, left_over)
            for count, example in enumerate(examples[taken:], taken + 1):
                self._place = {"examples": count, "left_over": left_over, "rows": begin}
                yield example
            taken, left_over, begin = 0, left_over_behind, reader.position()


class StreamBatches:
    """The updates of a run, epoch by epoch, from a stream that is too large to index.

    The stream is read in windows; each window is sorted by length and cut into batches. Bahdanau et al. 2014 (appendix
    B.2) do the same: they fetch 1600 pairs, sort them and cut them into 20 batches. Every epoch reads the shards in
    another order.

    The processes of a run's start decide how the stream is split: each has a share, and its workers split that. Batch
    i of an update comes from share i modulo their number, as long as the share lasts. A resumed run keeps the shares,
    so that it makes the same batches on any number of processes: one that computes batches of several shares reads
    all of these, and several that compute batches of one share all read it.

    Args:
        rows: the stream, split into shards.
        prepare: function from the columns of some rows, and what the rows before left over (None at first), to
            examples and what these rows leave over, which JSON can hold.
        lengths_of: function from an example to its numbers of tokens, (sides,).
        collate, max_tokens_per_batch, seed, process_index, num_processes: as in `LengthBucketBatches`.
        window: number of examples in a window.
        chunk_size: number of rows that are prepared at a time.
        num_workers: number of processes that read, prepare and collate in advance for this one. With 0, it does so
            itself.
        skip_broken_shards: leaves out the rest of a shard that cannot be read, and reports it.
        is_any_true: function that tells whether a condition is true on any process.
        gather: function that joins lists of all processes.
        say: function that shows a line to the user, once for all processes.
    """

    def __init__(
        self,
        rows: IterableDataset,
        prepare: Prepare,
        lengths_of: Callable[[Example], Sequence[int]],
        collate: Collate,
        *,
        max_tokens_per_batch: int,
        seed: int,
        window: int = 20_000,
        chunk_size: int = 1_000,
        process_index: int = 0,
        num_processes: int = 1,
        num_workers: int = 0,
        skip_broken_shards: bool = False,
        is_any_true: Callable[[bool], bool] = bool,
        gather: Callable[[list[Any]], list[Any]] = list,
        say: Callable[[str], None] = print,
    ):
        self.stream = Stream(
            rows, prepare, lengths_of, collate, max_tokens_per_batch, seed, window, chunk_size, skip_broken_shards
        )
        self.process_index, self.num_processes, self.num_workers = process_index, num_processes, num_workers
        self.is_any_true, self.gather, self.say = is_any_true, gather, say
        self.shares, self.readers = num_processes, max(1, num_workers)
        # Of each share that this process reads: the reader whose turn it is, and every reader's position.
        self._turns: dict[int, int] = {}
        self._positions: dict[int, list[Any]] = {}
        # What is wrong with the shards that were skipped in complete epochs, and in the present one, by their index.
        self._broken_before: dict[int, str] = {}
        self._broken: dict[int, str] = {}

    def updates_per_epoch(self, batches_per_update: int) -> None:
        """Returns None: the length of a stream is not known."""

    def updates(
        self, epoch: int, batches_per_update: int, skip: int = 0, state: Mapping[str, Any] | None = None
    ) -> Iterator[list[LocalBatch]]:
        """Iterates over this process's batches of each update of an epoch; see `LengthBucketBatches.updates`.

        Args:
            epoch, batches_per_update: as there.
            skip: number of updates of the epoch that are done.
            state: what `state_dict` returned after them; needed if there are any.

        Raises:
            ValueError: if a shard cannot be read, this process's share of the stream is empty, or the state is
                missing or of another stream.
            OSError: if a worker ends or gives no batch for `WORKER_TIMEOUT_SECONDS`.
        """
        self._restore(state, skip)
        if epoch == 0 and not skip:
            self._say_how_it_is_split()
        if epoch == 1 and not skip:
            self.say("The stream is shorter than the run: it begins again, every time in another order.")
        places = share_of_update(range(batches_per_update), self.process_index, self.num_processes)
        mine = {index for index, weight, _ in places if weight}
        # A process without a batch of its own computes copies of another's, with weight 0.
        shares = sorted({index % self.shares for index in mine or {self.process_index}})
        iterators = {share: self._share(epoch, share) for share in shares}
        last = None
        while True:
            update = {}
            for index in range(batches_per_update):
                if (share := index % self.shares) in iterators:
                    batch = next(iterators[share], None)
                    if batch is not None and index in mine:
                        update[index] = last = batch
            if not self.is_any_true(bool(update)):
                break
            if last is None:
                last = self._first_batch(epoch, shares[0])
            yield [
                LocalBatch(update[index], index) if index in update else LocalBatch(last, index, weight=0)
                for index, _, _ in places
            ]
        self._end_epoch(epoch)

    def state_dict(self) -> dict[str, Any] | None:
        """Returns the position behind the update that was given last, of all processes; None before the first one.

        Every process must call this method.
        """
        if not self._positions:
            return None
        parts = self.gather([(self._turns, self._positions, self._broken_before)])
        return {
            "shards": self.stream.rows.num_shards,
            "readers_per_share": self.readers,
            "turns": [dict_of(parts, 0)[share] for share in range(self.shares)],
            "positions": [[*dict_of(parts, 1)[share]] for share in range(self.shares)],
            "broken": sorted(dict_of(parts, 2).items()),
        }

    def results(self) -> dict[str, Any]:
        """Returns the number of shards that were skipped, if any, for `all_results.json`.

        Every process must call this method.
        """
        broken = dict_of(self.gather([(self._broken_before | self._broken,)]), 0)
        return {"train_skipped_shards": len(broken)} if broken else {}

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Iterates over this process's batches of an epoch, for a caller that makes no updates of several batches."""
        for update in self.updates(epoch, batches_per_update=self.num_processes):
            yield from (batch.tensors for batch in update if batch.weight)

    def _restore(self, state: Mapping[str, Any] | None, skip: int) -> None:
        if state is None and skip:
            raise ValueError(
                "The checkpoint holds no position in the stream: it is from an older version. Train anew, with "
                "overwrite_output_dir true or another output_dir."
            )
        self._turns, self._positions, self._broken = {}, {}, {}
        if state is None or not skip:
            return
        if state["shards"] != (now := self.stream.rows.num_shards):
            raise ValueError(
                f"The stream has {now} shards, but had {state['shards']} when the checkpoint was written. Restore the "
                "files, or train anew with overwrite_output_dir true."
            )
        self.shares, self.readers = len(state["positions"]), state["readers_per_share"]
        self._turns = dict(enumerate(state["turns"]))
        self._positions = {share: [*positions] for share, positions in enumerate(state["positions"])}
        self._broken_before = {shard: what for shard, what in state["broken"]}

    def _share(self, epoch: int, share: int) -> Iterator[Batch]:
        """Iterates over a share's batches: those of its readers in turn, without the readers that have ended."""
        turn = self._turns.setdefault(share, 0)
        positions = self._positions.setdefault(share, [None] * self.readers)
        readers = [self._reader(epoch, share * self.readers + i, positions[i]) for i in range(self.readers)]
        ended = set()
        while len(ended) < len(readers):
            batch = None
            if turn not in ended:
                item = next(readers[turn])
                if isinstance(item, str):
                    raise ValueError(item)
                batch, positions[turn] = item.tensors, item.position
                self._note_broken(item.broken)
                if batch is None:
                    ended.add(turn)
            turn = (turn + 1) % len(readers)
            self._turns[share] = turn
            if batch is not None:
                yield batch

    def _first_batch(self, epoch: int, share: int) -> Batch:
        """Returns a batch that keeps this process in step where its share has ended, or is empty."""
        for index in range(share * self.readers, (share + 1) * self.readers):
            first = next(iter(ReaderBatches(self.stream, epoch, index, self.shares * self.readers, None)))
            if first.tensors is not None:
                return first.tensors
        raise ValueError(
            f"Process {self.process_index} has no example of the stream. Use fewer processes or more files."
        )

    def _reader(self, epoch: int, index: int, position: Any) -> Iterator[ReadBatch | str]:
        batches = ReaderBatches(self.stream, epoch, index, self.shares * self.readers, position)
        if not self.num_workers:
            return iter(batches)
        # A DataLoader of one process for each reader. One DataLoader of several would hand out their batches in an
        # order that depends on the moment when it learns that one of them has ended.
        loader = DataLoader(
            batches,
            batch_size=None,
            num_workers=1,
            timeout=WORKER_TIMEOUT_SECONDS,
            # An iterator of a DataLoader draws a seed. It must not come from the model's generator.
            generator=torch.Generator().manual_seed(self.stream.seed),
        )
        return naming_lost_workers(loader)

    def _note_broken(self, broken: Sequence[tuple[int, str]]) -> None:
        for shard, what in broken:
            if shard not in self._broken:
                self._broken[shard] = what
                if shard not in self._broken_before:
                    tqdm.write(f"The rest of a broken shard is skipped: {what}", file=sys.stderr)

    def _end_epoch(self, epoch: int) -> None:
        if not self.stream.skip_broken_shards:
            return
        broken = dict_of(self.gather([(self._broken,)]), 0)
        if broken:
            named = "; ".join(list(broken.values())[:BROKEN_SHARDS_NAMED])
            more = ", ..." if len(broken) > BROKEN_SHARDS_NAMED else ""
            self.say(f"Epoch {epoch + 1}: broken shards that were skipped: {len(broken)} ({named}{more})")
        self._broken_before |= broken

    def _say_how_it_is_split(self) -> None:
        readers, shards = self.shares * self.readers, self.stream.rows.num_shards
        if shards % readers:
            left_over = shards % readers if shards > readers else "all"
            self.say(
                f"The stream has {shards} shards for {readers} readers (processes times workers). Those left over "
                f"({left_over}) are split by row: every reader reads them and keeps its part."
            )


def dict_of(parts: Sequence[Sequence[dict]], place: int) -> dict:
    """Returns the union of the dictionaries at one place of all processes' parts."""
    return {key: value for part in parts for key, value in part[place].items()}

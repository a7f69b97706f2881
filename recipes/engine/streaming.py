"""Batches from a stream that is too large to index, with a position from which a run resumes without reading again.

    shards of the stream (files, or those of a data set on the Hub)
      -> split over the processes of the run and their workers: `ShardReader`
      -> rows, prepared chunk by chunk (tokenised, packed) into examples; with weights, each corpus in its share
      -> windows of examples, sorted by length and cut into batches: `ReaderBatches`
      -> the updates of a run: `StreamBatches`

Every random choice follows from the seed, the epoch, the reader and the number of its window. So the position of a
reader is small: the place in its shard where the present window begins, and the number of batches taken from it.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import IterableDataset
from torch.utils.data import get_worker_info
from tqdm import tqdm

from papers_to_gpt.engine.batching import (
    Batch,
    Collate,
    LocalBatch,
    cut_into_batches,
    load_batches,
    order_by_length,
    share_of_update,
)
from papers_to_gpt.engine.mixture import corpora_in_results, describe_shares
from papers_to_gpt.engine.shard_reader import Shards
from papers_to_gpt.engine.stream_examples import Example, MixedStream, Prepare, Stream, WholeStream
from papers_to_gpt.settings.wording import counted

BROKEN_SHARDS_NAMED = 3


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
        corpora, read = len(stream.shards.corpora), None
        if corpora > 1:  # the examples of each corpus in the batches so far
            read = np.array(self.position.get("read") or [0] * corpora)
        make = WholeStream if stream.weights is None else MixedStream
        source = make(stream, self.epoch, self.index, self.count, self.position)
        examples, begin = iter(source), source.place()
        while window := list(itertools.islice(examples, stream.window)):
            generator = np.random.default_rng([stream.seed, self.epoch, self.index, number])
            lengths = np.array([stream.lengths_of(example) for _, example in window])
            batches = cut_into_batches(lengths, order_by_length(lengths, generator), stream.max_tokens_per_batch)
            for count, index in enumerate(generator.permutation(len(batches))[done:], done + 1):
                rows = [window[row] for row in batches[index]]
                position = {"window": number, "batches": count, **begin}
                if read is not None:
                    read = read + np.bincount([corpus for corpus, _ in rows], minlength=corpora)
                    position["read"] = read.tolist()
                yield ReadBatch(stream.collate([example for _, example in rows]), position, source.broken())
            number, done, begin = number + 1, 0, source.place()
        end = {} if read is None else {"read": read.tolist()}
        yield ReadBatch(None, {"window": number, "batches": 0, **begin, **end}, source.broken())


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
        rows: the stream, split into shards, or the shards of several corpora.
        weights: weights of the corpora, which are then drawn in these shares without end, each beginning again where
            it ends. None reads every row of every corpus once in an epoch.
        noun: what an example is, for results and messages about several corpora.
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
        rows: IterableDataset | Shards,
        prepare: Prepare,
        lengths_of: Callable[[Example], Sequence[int]],
        collate: Collate,
        *,
        weights: Sequence[float] | None = None,
        noun: str = "examples",
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
        self.shards, self.noun = rows if isinstance(rows, Shards) else Shards([rows]), noun
        self.weights = None if weights is None or len(self.shards.corpora) == 1 else [*weights]
        self.stream = Stream(
            self.shards,
            self.weights,
            prepare,
            lengths_of,
            collate,
            max_tokens_per_batch,
            seed,
            window,
            chunk_size,
            skip_broken_shards,
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
        # Examples of each corpus that were read in complete epochs.
        self._read_before = [0] * len(self.shards.corpora)

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
            "shards": self.shards.num_shards,
            "corpora": [corpus.num_shards for corpus in self.shards.corpora],
            "weights": self.weights,
            "read_before": self._read_before,
            "readers_per_share": self.readers,
            "turns": [dict_of(parts, 0)[share] for share in range(self.shares)],
            "positions": [[*dict_of(parts, 1)[share]] for share in range(self.shares)],
            "broken": sorted(dict_of(parts, 2).items()),
        }

    def results(self) -> dict[str, Any]:
        """Returns the number of shards that were skipped, and the counts of several corpora, for `all_results.json`.

        Every process must call this method.
        """
        parts = self.gather([(self._broken_before | self._broken, self._positions)])
        broken = dict_of(parts, 0)
        results: dict[str, Any] = {"train_skipped_shards": len(broken)} if broken else {}
        names = self.shards.names
        if len(names) > 1:
            counts = self._counts_with(dict_of(parts, 1))
            self.say(f"train: {sum(counts):,} {self.noun} were read: {describe_shares(names, counts)}")
            results["train_corpora"] = corpora_in_results(names, self.weights, counts, f"{self.noun}_read")
        return results

    def _counts_with(self, positions: Mapping[int, Sequence[Mapping[str, Any] | None]]) -> list[int]:
        """Returns the examples of each corpus in complete epochs and up to the positions of all shares."""
        counts = np.array(self._read_before)
        for position in (each for share in positions.values() for each in share if each is not None):
            counts = counts + position.get("read", 0)
        return counts.tolist()

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
        if state["shards"] != (now := self.shards.num_shards):
            raise ValueError(
                f"The stream has {counted(now, 'shard')}, but had {state['shards']} when the checkpoint was written. "
                "Restore the files, or train anew with overwrite_output_dir true."
            )
        corpora = [corpus.num_shards for corpus in self.shards.corpora]
        if state.get("corpora", corpora) != corpora or state.get("weights") != self.weights:
            raise ValueError(
                "The stream had other corpora or other train_weights when the checkpoint was written. Restore them, "
                "or train anew with overwrite_output_dir true."
            )
        self._read_before = state.get("read_before", self._read_before)
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
        return load_batches(batches, 1, self.stream.seed, batch_size=None)

    def _note_broken(self, broken: Sequence[tuple[int, str]]) -> None:
        for shard, what in broken:
            if shard not in self._broken:
                self._broken[shard] = what
                if shard not in self._broken_before:
                    tqdm.write(f"The rest of a broken shard is skipped: {what}", file=sys.stderr)

    def _end_epoch(self, epoch: int) -> None:
        if len(self.shards.corpora) > 1:
            self._read_before = self._counts_with(dict_of(self.gather([(self._positions,)]), 0))
            self._positions = {}
        if not self.stream.skip_broken_shards:
            return
        broken = dict_of(self.gather([(self._broken,)]), 0)
        if broken:
            named = "; ".join(list(broken.values())[:BROKEN_SHARDS_NAMED])
            more = ", ..." if len(broken) > BROKEN_SHARDS_NAMED else ""
            self.say(f"Epoch {epoch + 1}: broken shards that were skipped: {len(broken)} ({named}{more})")
        self._broken_before |= broken

    def _say_how_it_is_split(self) -> None:
        readers, parts = self.shares * self.readers, {"The stream": self.shards.num_shards}
        if self.weights is not None:
            parts = {name: len(self.shards.of_corpus(corpus)) for corpus, name in enumerate(self.shards.names)}
            shares = [
                f"{name} {100 * weight / sum(self.weights):.4g} %"
                for name, weight in zip(parts, self.weights, strict=True)
            ]
            self.say(f"train: the {self.noun} of the stream are drawn in these shares: {', '.join(shares)}")
        for name, shards in parts.items():
            if shards % readers:
                left_over = shards % readers if shards > readers else "all"
                self.say(
                    f"{name} has {counted(shards, 'shard')} for {readers} readers (processes times workers). Those "
                    f"left over ({left_over}) are split by row: every reader reads them and keeps its part."
                )


def dict_of(parts: Sequence[Sequence[dict]], place: int) -> dict:
    """Returns the union of the dictionaries at one place of all processes' parts."""
    return {key: value for part in parts for key, value in part[place].items()}

"""Streams of several corpora: shares that are as asked, exact resuming, counts, and errors."""

import json

import numpy as np
import pytest
import torch
from datasets import IterableDataset

from papers_to_gpt.engine.mixture import next_corpus
from papers_to_gpt.engine.shard_reader import Shards, rows_of_streams
from papers_to_gpt.engine.streaming import StreamBatches

NAMES = ("small", "large", "one")
# The sizes of the shards of three corpora; every corpus counts from a number of its own.
SIZES = ((7, 5), (40, 30, 50), (9,))
WEIGHTS = [1, 3, 0.5]


def rows_of_shards(shards):
    for first, size in shards:
        for index in range(first, first + size):
            yield {"index": index}


def corpora():
    streams = []
    for corpus, sizes in enumerate(SIZES):
        starts = (1000 * corpus + np.cumsum([0, *sizes])).tolist()
        shards = list(zip(starts, sizes, strict=False))
        streams.append(IterableDataset.from_generator(rows_of_shards, gen_kwargs={"shards": shards}))
    return streams


def three_by_three(rows, left_over):
    """Joins rows three by three, as packing does with tokens: a lost or repeated row shifts the rest."""
    indices = [*(left_over or []), *rows["index"]]
    whole = len(indices) // 3 * 3
    return [{"index": indices[i : i + 3]} for i in range(0, whole, 3)], indices[whole:]


def collate(examples):
    return {"index": torch.tensor([example["index"] for example in examples])}


def length_of(example):
    return (3 + example["index"][0] % 5,)


def make(weights=WEIGHTS, say=str, **options):
    options = {"max_tokens_per_batch": 20, "seed": 3, "window": 25, "chunk_size": 4} | options
    shards = Shards(corpora(), NAMES)
    return StreamBatches(
        shards, three_by_three, length_of, collate, weights=weights, noun="blocks", say=say, **options
    )


def indices(update):
    return [batch.tensors["index"].tolist() for batch in update if batch.weight]


def take(batches, number, **position):
    """The examples of some updates, and the state behind each of them as a checkpoint holds it."""
    taken = []
    for update in batches.updates(0, 2, **position):
        taken.append((indices(update), json.loads(json.dumps(batches.state_dict()))))
        if len(taken) == number:
            return taken
    return taken


def counts_of(updates):
    corpus = [block[0] // 1000 for update in updates for batch in update for block in batch]
    return np.bincount(corpus, minlength=3)


@pytest.mark.parametrize(("workers", "number"), [(0, 200), (2, 30)])
def test_a_long_stream_has_the_shares_that_were_asked_for_and_counts_them(workers, number):
    lines = []
    batches = make(say=lines.append, num_workers=workers)
    updates = [update for update, _ in take(batches, number)]
    counts = counts_of(updates)
    # Whole windows are exact up to a few examples; of the last one of each reader a part is read.
    np.testing.assert_allclose(counts, counts.sum() * np.array(WEIGHTS) / 4.5, atol=3 + 4 * (workers + 1))
    results = batches.results()["train_corpora"]
    assert [corpus["blocks_read"] for corpus in results] == counts.tolist()
    assert [corpus["weight"] for corpus in results] == WEIGHTS
    assert lines[0] == (
        "train: the blocks of the stream are drawn in these shares: small 22.22 %, large 66.67 %, one 11.11 %"
    )
    assert lines[-1].startswith(f"train: {counts.sum():,} blocks were read: small {counts[0]:,} (22.")
    # Every corpus is read over and over: by one reader, its rows come equally often, up to the open window.
    rows = np.array([row for update in updates for batch in update for block in batch for row in block])
    times = [np.unique(rows[rows // 1000 == corpus], return_counts=True)[1] for corpus in range(3)]
    assert len(times[0]) == 12 and len(times[2]) == 9
    assert workers or all(each.max() - each.min() <= 2 for each in times)


def test_a_resumed_mixture_continues_with_the_same_batches_on_other_numbers_of_processes():
    whole = take(make(), 60)
    assert take(make(), 60) == whole
    assert take(make(seed=4), 5) != whole[:5]
    for done in (1, 2, 13, 14, 15, 16, 40):
        rest = make()
        assert take(rest, 60 - done, skip=done, state=whole[done - 1][1]) == whole[done:], done
        assert rest.results() == whole_results(whole), done
    # A share that two processes read together: each computes its batches of the update.
    parts = [[update for update, _ in take_of_process(process, 20, whole[9][1])] for process in range(2)]
    assert [first + second for first, second in zip(*parts, strict=True)] == [update for update, _ in whole[10:30]]


def whole_results(whole):
    counts = counts_of([update for update, _ in whole])
    share = [round(count / counts.sum(), 6) for count in counts]
    columns = zip(NAMES, WEIGHTS, counts.tolist(), share, strict=True)
    return {
        "train_corpora": [dict(zip(("name", "weight", "blocks_read", "share"), row, strict=True)) for row in columns]
    }


def take_of_process(process, number, state):
    batches = make(process_index=process, num_processes=2, gather=list)
    taken = []
    for update in batches.updates(0, 2, 10, state):
        taken.append((indices(update), None))
        if len(taken) == number:
            return taken


def test_without_weights_an_epoch_has_every_row_once_and_is_counted_over_epochs():
    batches = make(weights=None)
    first = [indices(update) for update in batches.updates(0, 2)]
    again = [indices(update) for update in batches.updates(1, 2)]
    assert first != again
    # Three rows make a block, so of 141 rows none is left over.
    for updates in (first, again):
        rows = sorted(row for update in updates for batch in update for block in batch for row in block)
        assert rows == sorted(row["index"] for corpus in corpora() for row in corpus)
    results = batches.results()["train_corpora"]
    assert sum(corpus["blocks_read"] for corpus in results) == 2 * 47 and "weight" not in results[0]


def test_other_weights_do_not_continue_a_stream():
    state = take(make(), 3)[-1][1]
    with pytest.raises(ValueError, match="other corpora or other train_weights"):
        take(make(weights=[1, 3, 1]), 1, skip=3, state=state)


def test_a_corpus_without_an_example_for_a_reader_is_named():
    shards = Shards([*corpora()[:2], IterableDataset.from_generator(rows_of_shards, gen_kwargs={"shards": [(0, 1)]})])
    shards.names = list(NAMES)
    batches = StreamBatches(
        shards,
        lambda rows, _: ([{"index": [index] * 3} for index in rows["index"] if index], None),
        length_of,
        collate,
        weights=WEIGHTS,
        max_tokens_per_batch=20,
        seed=0,
        say=str,
    )
    with pytest.raises(ValueError, match="Reader 1 of 1 finds no example in one"):
        next(batches.updates(0, 1))


def test_a_vocabulary_sees_the_streams_in_their_shares_until_they_end():
    rows = [row["index"] // 1000 for row in rows_of_streams(corpora(), [1, 3, 1], False)]
    assert np.bincount(rows[:20]).tolist() == [4, 12, 4] and np.bincount(rows).tolist() == [12, 120, 9]


def test_counts_never_leave_their_shares_by_more_than_the_number_of_corpora():
    generator = np.random.default_rng(0)
    for _ in range(20):
        weights = generator.random(6) + 0.01
        taken = [0] * 6
        for number in range(1, 300):
            taken[next_corpus(weights, taken)] += 1
            assert np.abs(taken - weights / weights.sum() * number).max() < 3

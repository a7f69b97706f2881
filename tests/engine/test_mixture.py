"""Several corpora with weights: what an epoch reads, and that a resumed run reads the same."""

import collections

import numpy as np
import pytest
import torch

from papers_to_gpt.engine.batching import LengthBucketBatches
from papers_to_gpt.engine.mixture import Mixture

SIZES = (40, 10, 25)
NAMES = ("a", "b", "c")


def counts_of(rows):
    counts = np.bincount(rows, minlength=sum(SIZES))
    return np.split(counts, np.cumsum(SIZES)[:-1])


def test_an_epoch_repeats_each_corpus_by_its_weight_and_samples_the_fraction():
    mixture = Mixture(NAMES, SIZES, (1, 2.5, 0.2), 7, "pairs")
    epochs = [mixture.rows(epoch) for epoch in range(40)]
    for rows in epochs:
        once, often, seldom = counts_of(rows)
        assert (once == 1).all()
        assert collections.Counter(often.tolist()) == {2: 5, 3: 5}
        assert collections.Counter(seldom.tolist()) == {0: 20, 1: 5}
    assert mixture.counts == [40, 25, 5] and len(epochs[0]) == 70
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(epochs[3], Mixture(NAMES, SIZES, (1, 2.5, 0.2), 7, "pairs").rows(3))
    # Over the epochs the fraction reaches every row about equally often: 40 draws of 5 in 25.
    drawn = sum(counts_of(rows)[2] for rows in epochs)
    assert drawn.sum() == 200 and drawn.min() >= 1 and drawn.max() <= 20


def test_weights_of_one_read_every_row_once_like_no_weights():
    np.testing.assert_array_equal(Mixture(NAMES, SIZES, (1, 1, 1), 0, "pairs").rows(2), np.arange(75))
    assert Mixture(NAMES, SIZES, None, 0, "pairs").counts == list(SIZES)


def test_a_weight_that_leaves_nothing_of_a_corpus_is_refused():
    with pytest.raises(ValueError, match="train_weights: b has 10 pairs, and its weight leaves less than one"):
        Mixture(NAMES, SIZES, (1, 0.04, 1), 0, "pairs")


def batches_of(rows, **options):
    lengths = np.arange(150).reshape(75, 2) % 17 + 3
    examples = [{"index": index} for index in range(75)]

    def collate(batch):
        return {"index": torch.tensor([example["index"] for example in batch])}

    batches = LengthBucketBatches(examples, lengths, collate, rows=rows, max_tokens_per_batch=60, seed=3)
    return [[batch.tensors["index"].tolist() for batch in update] for update in batches.updates(2, 2, **options)]


def test_weighted_batches_hold_the_rows_of_the_epoch_and_resume_at_any_update():
    mixture = Mixture(NAMES, SIZES, (1, 2.5, 0.2), 7, "pairs")
    whole = batches_of(mixture.rows)
    read = sorted(row for update in whole for batch in update for row in batch)
    assert read == sorted(mixture.rows(2).tolist())
    for skip in range(len(whole)):
        assert batches_of(mixture.rows, skip=skip) == whole[skip:]


def test_without_weights_the_order_is_that_of_one_corpus():
    assert batches_of(None) == batches_of(Mixture(NAMES, SIZES, (1, 1, 1), 7, "pairs").rows)

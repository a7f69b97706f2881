"""Batches by tokens: complete, full, alike on every machine, and shared out without overlap."""

import numpy as np
import pytest
import torch

from papers_to_gpt.engine.batching import LengthBucketBatches, StreamBatches, batches_for_evaluation, cut_into_batches


@pytest.fixture(scope="module")
def lengths():
    # About as Multi30k: related lengths of 5 to 40 tokens.
    generator = np.random.default_rng(0)
    source = np.clip(generator.gamma(9, 1.6, size=3000).astype(int) + 2, 4, 45)
    return np.stack([source, np.clip(source + generator.integers(-3, 4, size=3000), 3, 48)], axis=1)


def collate(examples):
    return {"index": torch.tensor([example["index"] for example in examples])}


def examples_of(lengths):
    return [{"index": index, "lengths": row} for index, row in enumerate(lengths)]


def make(lengths, **options):
    options = {"max_tokens_per_batch": 512, "seed": 1} | options
    return LengthBucketBatches(examples_of(lengths), lengths, collate, **options)


def indices(batches):
    return [batch["index"].tolist() for batch in batches]


def padding(lengths, batches):
    places = sum(lengths[batch].max(axis=0).sum() * len(batch) for batch in batches)
    return 1 - lengths.sum() / places


def test_an_epoch_holds_every_example_once_within_the_token_limit(lengths):
    batches = indices(make(lengths).epoch(0))
    assert sorted(sum(batches, [])) == list(range(len(lengths)))
    assert all(lengths[batch].max() * len(batch) <= 512 for batch in batches)


def test_batches_are_full_and_hardly_padded(lengths):
    batches = indices(make(lengths).epoch(0))
    fullness = np.mean([lengths[batch].max() * len(batch) / 512 for batch in batches])
    assert fullness > 0.9
    assert padding(lengths, batches) < 0.05
    # Random batches of the same size are the comparison: most of their places are padding.
    order = np.random.default_rng(0).permutation(len(lengths))
    assert padding(lengths, np.array_split(order, len(batches))) > 0.3


def test_an_example_longer_than_the_limit_is_a_batch_by_itself():
    long = np.array([[5, 5], [900, 3], [5, 5]])
    batches = cut_into_batches(long, np.arange(3), max_tokens_per_batch=100)
    assert [batch.tolist() for batch in batches] == [[0], [1], [2]]


def test_rows_limit_batches_alone_or_beside_tokens(lengths):
    batches = indices(make(lengths, max_tokens_per_batch=None, max_rows_per_batch=32).epoch(0))
    assert sorted(sum(batches, [])) == list(range(len(lengths)))
    assert sorted(map(len, batches)) == [3000 % 32, *[32] * (3000 // 32)]
    assert padding(lengths, batches) < 0.05
    both = indices(make(lengths, max_tokens_per_batch=512, max_rows_per_batch=20).epoch(0))
    assert max(map(len, both)) == 20
    assert all(lengths[batch].max() * len(batch) <= 512 for batch in both)


def test_epochs_differ_and_the_same_epoch_repeats(lengths):
    batches = make(lengths)
    assert indices(batches.epoch(0)) == indices(make(lengths).epoch(0))
    assert indices(batches.epoch(0)) != indices(batches.epoch(1))
    assert indices(batches.epoch(0)) != indices(make(lengths, seed=2).epoch(0))
    composition = [{frozenset(batch) for batch in indices(batches.epoch(epoch))} for epoch in (0, 1)]
    assert len(composition[0] & composition[1]) < len(composition[0]) / 2


def test_skipping_gives_the_rest_of_the_epoch_and_draws_no_random_number_of_the_models(lengths):
    before = torch.get_rng_state()
    assert indices(make(lengths).epoch(3, skip=4)) == indices(make(lengths).epoch(3))[4:]
    assert torch.equal(before, torch.get_rng_state())


def test_processes_share_an_epoch_evenly_and_without_overlap(lengths):
    shares = [indices(make(lengths, process_index=index, num_processes=3).epoch(0)) for index in range(3)]
    assert len({len(share) for share in shares}) == 1
    seen = sum(sum(shares, []), [])
    assert len(seen) == len(set(seen))
    assert sum(map(len, shares)) >= len(indices(make(lengths).epoch(0))) - 2


def test_too_few_examples_for_the_processes_are_refused():
    with pytest.raises(ValueError, match="Lower max_tokens_per_batch"):
        make(np.array([[3, 3], [4, 4]]), num_processes=4)


def test_a_stream_gives_every_example_and_resumes(lengths):
    def stream(**options):
        return StreamBatches(
            examples_of(lengths),
            lambda e: e["lengths"],
            collate,
            max_tokens_per_batch=512,
            seed=1,
            window=700,
            **options,
        )

    batches = indices(stream().epoch(0))
    assert sorted(sum(batches, [])) == list(range(len(lengths)))
    assert padding(lengths, batches) < 0.1
    assert indices(stream().epoch(0, skip=5)) == batches[5:]
    shares = [indices(stream(process_index=index, num_processes=2).epoch(0)) for index in range(2)]
    assert len(shares[0]) == len(shares[1])
    assert not set(sum(shares[0], [])) & set(sum(shares[1], []))


def test_evaluation_sees_every_example_once_over_all_processes(lengths):
    seen = []
    for index in range(3):
        seen += indices(
            batches_for_evaluation(
                examples_of(lengths), lengths, collate, max_tokens_per_batch=512, process_index=index, num_processes=3
            )
        )
    assert sorted(sum(seen, [])) == list(range(len(lengths)))

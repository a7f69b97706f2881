"""Batches by tokens: complete, full, alike on every machine, and shared out without overlap."""

import multiprocessing
import os
import signal
import subprocess
import time

import numpy as np
import pytest
import torch

from papers_to_gpt.engine import batching
from papers_to_gpt.engine.batching import LengthBucketBatches, batches_for_evaluation, cut_into_batches


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


def updates_of(batches, **arguments):
    """The updates of an epoch: index in the update to (weight, examples)."""
    return [
        {batch.index: (batch.weight, tuple(batch.tensors["index"].tolist())) for batch in group}
        for group in batches.updates(**arguments)
    ]


def test_skipping_gives_the_rest_of_the_epoch_and_draws_no_random_number_of_the_models(lengths):
    before = torch.get_rng_state()
    whole = updates_of(make(lengths), epoch=3, batches_per_update=3)
    assert updates_of(make(lengths), epoch=3, batches_per_update=3, skip=4) == whole[4:]
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7])
def test_any_number_of_processes_shares_the_same_updates(lengths, processes):
    alone = updates_of(make(lengths), epoch=0, batches_per_update=4)
    assert len(alone) == make(lengths).updates_per_epoch(4)
    assert sorted(row for update in alone for _, rows in update.values() for row in rows) == list(range(len(lengths)))
    assert len(alone[-1]) < 4  # the last update is short
    shares = [
        updates_of(make(lengths, process_index=index, num_processes=processes), epoch=0, batches_per_update=4)
        for index in range(processes)
    ]
    for update, parts in zip(alone, zip(*shares, strict=True), strict=True):
        assert len({len(part) for part in parts}) == 1  # or one process would wait for another
        together = {index: batch for part in parts for index, batch in part.items()}
        assert {index: batch for index, batch in together.items() if batch[0]} == update


class DyingDataset:
    """A worker that reads it is killed, as by a lack of memory."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_named():
    batches = LengthBucketBatches(
        DyingDataset(), np.full((4, 1), 3), collate, max_rows_per_batch=2, seed=0, num_workers=1
    )
    with pytest.raises(
        OSError, match=r"prepares batches .*(killed by signal|exited unexpectedly)\. .*Lower dataloader_num_workers"
    ):
        list(batches.epoch(0))


class StallingDataset:
    """A worker that reads its third example gives nothing more, and leaves its pid."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:
            self.path.write_text(str(os.getpid()))
            time.sleep(600)
        return {"index": index}


def test_a_worker_that_stalls_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(batching, "WORKER_TIMEOUT_SECONDS", 3)
    dataset = StallingDataset(tmp_path / "pid")
    batches = LengthBucketBatches(dataset, np.full((4, 1), 3), collate, max_rows_per_batch=1, seed=0, num_workers=2)
    with pytest.raises(OSError, match=r"timed out after 3 seconds, waiting for worker .*\. The machine may") as error:
        list(batches.epoch(0))
    assert f"(pid {dataset.path.read_text()})" in str(error.value)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_of_a_run_leaves_its_workers_until_the_run_ends_them(lengths, number):
    batches = make(lengths, num_workers=1).epoch(0)
    first = next(batches)
    (worker,) = multiprocessing.active_children()
    subprocess.run(["kill", f"-{number}", str(worker.pid)], check=True)  # by another process than the worker's own
    assert len(sum(indices([first, *batches]), [])) == len(lengths)
    batches = make(lengths, num_workers=1).epoch(0)
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0


def test_evaluation_sees_every_example_once_over_all_processes(lengths):
    seen = []
    for index in range(3):
        seen += indices(
            batches_for_evaluation(
                examples_of(lengths), lengths, collate, max_tokens_per_batch=512, process_index=index, num_processes=3
            )
        )
    assert sorted(sum(seen, [])) == list(range(len(lengths)))

"""Whatever the data, the budget, the processes and the interruptions: an epoch has every token exactly once."""

from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt1_scratch.pretraining.packing import cut_blocks
from papers_to_gpt.engine.batching import LengthBucketBatches, batches_for_evaluation

# Shrinking and timing must not make a slow machine fail.
EXAMPLES = settings(max_examples=60, deadline=None)

lengths_of_examples = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=70)


def make_examples(lengths):
    """Examples whose every token has a number of its own, (source, target)."""
    numbers = iter(range(10**6))
    return [
        {"source": [next(numbers) for _ in range(source)], "target": [next(numbers) for _ in range(target)]}
        for source, target in lengths
    ]


def collate(examples):
    return {"tokens": torch.tensor([token for each in examples for token in each["source"] + each["target"]])}


def tokens_of(examples):
    return Counter(token for each in examples for token in each["source"] + each["target"])


def epoch_of_all_processes(make, processes, batches_per_update, stops):
    """The tokens of an epoch in which the run is stopped after some updates and resumed on other processes.

    Args:
        make: function from (process_index, num_processes) to batches.
        processes: number of processes of each stretch between two stops.
        batches_per_update: batches of an update over all processes.
        stops: updates, rising, at which the next stretch begins.
    """
    tokens, updates = Counter(), 0
    for stretch, count in enumerate(processes):
        end = stops[stretch] if stretch < len(stops) else None
        shares = [
            list(make(index, count).updates(1, batches_per_update, skip=updates))[
                : None if end is None else end - updates
            ]
            for index in range(count)
        ]
        assert len({len(share) for share in shares}) == 1
        for update in zip(*shares, strict=True):
            assert len({len(batches) for batches in update}) == 1
            indices = [batch.index for batches in update for batch in batches if batch.weight]
            assert sorted(indices) == list(range(len(indices))) and len(indices) <= batches_per_update
            for batches in update:
                for batch in batches:
                    tokens.update(batch.tensors["tokens"].tolist() if batch.weight else [])
        updates += len(shares[0])
    return tokens


interruptions = st.lists(st.integers(0, 8), max_size=2).map(sorted)
process_counts = st.lists(st.integers(1, 5), min_size=3, max_size=3)


@EXAMPLES
@given(
    lengths=lengths_of_examples,
    max_tokens=st.none() | st.integers(1, 200),
    max_rows=st.integers(1, 9),
    batches_per_update=st.integers(1, 6),
    processes=process_counts,
    stops=interruptions,
    seed=st.integers(0, 5),
)
def test_data_in_memory(lengths, max_tokens, max_rows, batches_per_update, processes, stops, seed):
    examples = make_examples(lengths)

    def make(index, count):
        return LengthBucketBatches(
            examples,
            np.array(lengths),
            collate,
            max_tokens_per_batch=max_tokens,
            max_rows_per_batch=max_rows,
            seed=seed,
            process_index=index,
            num_processes=count,
        )

    processes = processes[: len(stops) + 1]
    assert epoch_of_all_processes(make, processes, batches_per_update, stops) == tokens_of(examples)


@EXAMPLES
@given(lengths=lengths_of_examples, max_tokens=st.integers(1, 200), processes=st.integers(1, 90))
def test_an_evaluation(lengths, max_tokens, processes):
    examples, tokens = make_examples(lengths), Counter()
    for index in range(processes):
        batches = batches_for_evaluation(
            examples,
            np.array(lengths),
            collate,
            max_tokens_per_batch=max_tokens,
            process_index=index,
            num_processes=processes,
        )
        for batch in batches:
            tokens.update(batch["tokens"].tolist())
    assert tokens == tokens_of(examples)


@EXAMPLES
@given(
    lengths=st.lists(st.integers(0, 50), max_size=40),
    block_size=st.integers(2, 30),
    separate_documents=st.booleans(),
    separator_id=st.none() | st.just(-1),
)
def test_blocks_of_packed_text(lengths, block_size, separate_documents, separator_id):
    numbers = iter(range(10**6))
    rows = [[next(numbers) for _ in range(length)] for length in lengths]
    expected, positions = [], []
    for row in filter(None, rows):
        row = row if separator_id is None else [separator_id, *row]
        for place, token in enumerate(row):
            restarts = place == 0 or len(expected) % block_size == 0
            expected.append(token)
            positions.append(0 if restarts else positions[-1] + 1)
    blocks = list(cut_blocks(rows, block_size, separate_documents=separate_documents, separator_id=separator_id))
    kept = len(expected) // block_size * block_size  # the rest fills no block
    assert [token for block in blocks for token in block["input_ids"].tolist()] == expected[:kept]
    if separate_documents:
        assert [place for block in blocks for place in block["position_ids"].tolist()] == positions[:kept]

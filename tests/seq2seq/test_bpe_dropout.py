"""BPE-dropout against the tokenizer's own merges, and over epochs and resumptions."""

from collections import Counter

import numpy as np
import pytest
from datasets import Dataset

from papers_to_gpt.engine.batching import LengthBucketBatches
from seq2seq_scratch.data.batches import collate
from seq2seq_scratch.data.bpe_dropout import RandomlySegmented, RandomSegmentation
from seq2seq_scratch.tokenization import train_tokenizer

SENTENCES = [
    "the lowest tower is lower than the newest tower",
    "a new (and slow) worker showed the lowest row of towers",
    "who knows the slower, newer way",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(SENTENCES * 9, kind="bpe", vocab_size=330)


def test_without_dropout_the_segmentation_is_the_tokenizers_own(tokenizer):
    segmentation = RandomSegmentation(tokenizer, 0.0, seed=1)
    for sentence in [*SENTENCES, "lowernew (snow) 日本 show", "towertower...", ""]:
        ids = tokenizer(sentence).input_ids
        assert segmentation(ids, np.random.default_rng(0)) == ids


def test_the_text_stays_and_the_pieces_change(tokenizer):
    segmentation = RandomSegmentation(tokenizer, 0.3, seed=1)
    generator = np.random.default_rng(0)
    text = "the slower 日本 workers (who know) showed the newest towers"
    seen = {tuple(segmentation(tokenizer(text).input_ids, generator)) for _ in range(50)}
    assert len(seen) > 40
    assert {tokenizer.decode(ids, skip_special_tokens=True) for ids in seen} == {text}
    assert all(ids[-1] == tokenizer.eos_token_id for ids in seen)


def test_a_merge_is_skipped_as_often_as_the_setting_says():
    tokenizer = train_tokenizer(["ab"] * 9, kind="bpe", vocab_size=400)
    ids = tokenizer("ab", add_special_tokens=False).input_ids
    assert len(ids) == 1 and len(tokenizer) == 4 + 256 + 3 + 2
    # Two merges make the word, one after the other, whichever is learned first: at every step one is possible.
    drawn = Counter()
    for seed in range(300):
        segmentation = RandomSegmentation(tokenizer, 0.25, seed)
        drawn.update(len(pieces) for pieces in segmentation.segmentations_of(tuple(ids)))
    total = sum(drawn.values())
    assert drawn[3] / total == pytest.approx(0.25, abs=0.02)
    assert drawn[2] / total == pytest.approx(0.75 * 0.25, abs=0.02)
    assert drawn[1] / total == pytest.approx(0.75 * 0.75, abs=0.02)


def batches_of(tokenizer, workers=0):
    ids = [tokenizer(sentence).input_ids for sentence in SENTENCES * 8]
    segmentation = RandomSegmentation(tokenizer, 0.2, seed=3)
    examples = Dataset.from_dict({"input_ids": ids, "labels": ids[::-1]})
    segmented = RandomlySegmented(examples, segmentation, segmentation, seed=3)
    return LengthBucketBatches(
        segmented,
        segmented.lengths,
        lambda rows: collate(rows, tokenizer.pad_token_id),
        max_tokens_per_batch=100,
        seed=3,
        num_workers=workers,
    )


def test_epochs_differ_and_a_resumed_epoch_does_not(tokenizer):
    def same(left, right):
        pairs = list(zip(left, right, strict=True))
        return all(a["input_ids"].equal(b["input_ids"]) and a["labels"].equal(b["labels"]) for a, b in pairs)

    batches = batches_of(tokenizer)
    first, second = list(batches.epoch(0)), list(batches.epoch(1))
    assert not {tuple(row.tolist()) for batch in first for row in batch["input_ids"]} <= {
        tuple(row.tolist()) for batch in second for row in batch["input_ids"]
    }
    # Another object, as after a restart, which has segmented nothing before.
    resumed = batches_of(tokenizer).updates(1, batches_per_update=1, skip=2)
    assert same(second[2:], [batch.tensors for update in resumed for batch in update])
    assert same(second, batches_of(tokenizer, workers=1).epoch(1))
    # Made by the lengths that the sentences have in that epoch.
    assert all(max(batch["input_ids"].numel(), batch["labels"].numel()) <= 100 for batch in second)


def test_a_word_vocabulary_is_refused():
    words = train_tokenizer(["a b c a b c"], kind="word", vocab_size=10)
    with pytest.raises(ValueError, match="no BPE tokenizer"):
        RandomSegmentation(words, 0.1, seed=1)

"""Sentence pairs become the ids of tokenizers, and those of several pairs a batch."""

import logging

import datasets
import numpy as np
import pytest
import torch
from parallel_files import ENGLISH, GERMAN, LANGUAGES, write_file

from seq2seq_scratch.data.batches import collate, tokenize_parallel
from seq2seq_scratch.data.corpora import load_parallel_data
from seq2seq_scratch.data.text_encoder import TextEncoder
from seq2seq_scratch.tokenization import load_tokenizers, save_tokenizers, train_tokenizer

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def tokenizers():
    german = train_tokenizer(GERMAN * 3, kind="bpe", vocab_size=300)
    english = train_tokenizer(ENGLISH * 3, kind="word", vocab_size=60)
    return german, english


@pytest.fixture
def pairs(tmp_path):
    return load_parallel_data(test_file=write_file(tmp_path / "pairs", "text"), **LANGUAGES)["test"]


def test_pairs_become_the_tokenizers_ids(pairs, tokenizers):
    source_tokenizer, target_tokenizer = tokenizers
    tokenized, report = tokenize_parallel(
        pairs, *tokenizers, max_source_length=100, max_target_length=100, drop_long=False
    )
    assert tokenized.column_names == ["input_ids", "labels", "source_length", "target_length"]
    assert tokenized["input_ids"][:] == source_tokenizer(GERMAN)["input_ids"]
    assert tokenized["labels"][:] == target_tokenizer(ENGLISH)["input_ids"]
    assert tokenized["source_length"][:] == [len(ids) for ids in tokenized["input_ids"]]
    assert tokenized["target_length"][:] == [len(ids) for ids in tokenized["labels"]]
    assert str(report) == "5 pairs, 1 with a side without text"


def expected_rows(tokenizers, max_source_length, max_target_length):
    source_tokenizer, target_tokenizer = tokenizers
    rows = []
    for source, target in zip(GERMAN, ENGLISH, strict=True):
        input_ids, labels = source_tokenizer(source)["input_ids"], target_tokenizer(target)["input_ids"]
        if target and len(input_ids) <= max_source_length and len(labels) <= max_target_length:
            rows.append((input_ids, labels))
    return rows


def test_training_pairs_that_are_empty_or_too_long_are_left_out_and_counted(pairs, tokenizers):
    lengths = sorted(len(tokenizers[0](text)["input_ids"]) for text in GERMAN)
    tokenized, report = tokenize_parallel(pairs, *tokenizers, max_source_length=lengths[-2], max_target_length=4)
    expected = expected_rows(tokenizers, lengths[-2], 4)
    assert 0 < len(expected) < 4
    assert list(zip(tokenized["input_ids"], tokenized["labels"], strict=True)) == expected
    assert (report.read, report.kept, report.empty, report.source_too_long) == (5, len(expected), 1, 1)
    assert report.target_too_long == 3 - len(expected)
    assert str(report) == (
        f"5 pairs, {report.kept} kept; left out: 1 with a side without text, "
        f"1 longer than max_source_length ({lengths[-2]} tokens), "
        f"{report.target_too_long} longer than max_target_length (4 tokens)"
    )


def test_a_pair_of_exactly_the_limit_is_kept(pairs, tokenizers):
    source, target = tokenizers
    longest = [max(map(len, source(GERMAN)["input_ids"])), max(map(len, target(ENGLISH)["input_ids"]))]
    tokenized, report = tokenize_parallel(
        pairs, *tokenizers, max_source_length=longest[0], max_target_length=longest[1]
    )
    assert report.kept == len(tokenized) == 4


def test_evaluation_pairs_all_stay_and_long_sources_are_cut(pairs, tokenizers):
    tokenized, report = tokenize_parallel(
        pairs, *tokenizers, max_source_length=6, max_target_length=2, drop_long=False
    )
    full = [tokenizers[0](text)["input_ids"] for text in GERMAN]
    assert tokenized["input_ids"][:] == [ids if len(ids) <= 6 else [*ids[:5], 3] for ids in full]
    assert tokenized["labels"][:] == tokenizers[1](ENGLISH)["input_ids"]
    cut = sum(len(ids) > 6 for ids in full)
    assert 0 < cut == report.truncated
    assert str(report) == f"5 pairs, {cut} sources cut to 6 tokens, 1 with a side without text"


def test_targets_beyond_the_learned_positions_are_counted_and_cut_in_batches(pairs, tokenizers):
    tokenized, report = tokenize_parallel(
        pairs, *tokenizers, max_source_length=100, max_target_length=4, drop_long=False, max_positions=4
    )
    full = tokenizers[1](ENGLISH)["input_ids"]
    long = sum(len(ids) > 4 for ids in full)
    assert tokenized["labels"][:] == full and long > 0
    assert str(report).startswith(f"5 pairs, {long} targets cut to 4 tokens for the loss (learned positions), 1 with")
    labels = collate(list(tokenized), pad_token_id=1, max_positions=4)["labels"]
    assert labels.shape == (5, 4) and [row[row != -100].tolist() for row in labels] == [ids[:4] for ids in full]


def test_a_training_set_of_which_nothing_is_left_is_an_error(pairs, tokenizers):
    with pytest.raises(ValueError, match=r"No training pair is left: 5 pairs, 0 kept; .*4 longer than max_source"):
        tokenize_parallel(pairs, *tokenizers, max_source_length=1, max_target_length=100)


def test_a_set_to_evaluate_on_without_any_text_is_an_error(tokenizers):
    nothing = datasets.Dataset.from_dict({"source": ["", "a"], "target": ["b", "\u200b"]})
    with pytest.raises(ValueError, match="No pair to evaluate on has text on both sides: 2 pairs, 2 with a side"):
        tokenize_parallel(nothing, *tokenizers, max_source_length=9, max_target_length=9, drop_long=False)


def test_a_stream_is_tokenised_like_the_set(pairs, tokenizers):
    settings = {"max_source_length": 20, "max_target_length": 6}
    expected, expected_report = tokenize_parallel(pairs, *tokenizers, **settings)
    stream, report = tokenize_parallel(pairs.to_iterable_dataset(), *tokenizers, **settings)
    assert report.read == 0
    assert list(stream) == list(expected)
    assert report == expected_report
    cut, _ = tokenize_parallel(
        pairs.to_iterable_dataset(), *tokenizers, max_source_length=6, max_target_length=6, drop_long=False
    )
    assert max(row["source_length"] for row in cut) == 6 and len(list(cut)) == 5


def test_several_processes_tokenise_like_one(pairs, tokenizers, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    one, _ = tokenize_parallel(pairs, *tokenizers, max_source_length=99, max_target_length=99, drop_long=False)
    datasets.disable_caching()
    try:
        two, _ = tokenize_parallel(
            pairs, *tokenizers, max_source_length=99, max_target_length=99, drop_long=False, num_proc=2
        )
    finally:
        datasets.enable_caching()
    assert two[:] == one[:]


class Counting:
    """Counts how often something is encoded; a cached result needs none of it."""

    def __init__(self, monkeypatch):
        self.calls = 0
        original = TextEncoder.__call__

        def count(encoder, texts):
            self.calls += 1
            return original(encoder, texts)

        monkeypatch.setattr(TextEncoder, "__call__", count)

    def new(self):
        calls, self.calls = self.calls, 0
        return calls > 0


def test_the_cache_knows_data_tokenizers_and_settings(tmp_path, pairs, tokenizers, monkeypatch):
    source_tokenizer, target_tokenizer = tokenizers
    counting = Counting(monkeypatch)

    def run(data=pairs, source=source_tokenizer, target=target_tokenizer, **settings):
        settings = {"max_source_length": 50, "max_target_length": 50} | settings
        tokenized, report = tokenize_parallel(data, source, target, **settings)
        return counting.new(), tokenized[:], report

    first, rows, report = run()
    again, rows_again, report_again = run()
    assert first and not again
    assert (rows_again, report_again) == (rows, report)

    # What a tokenizer did last is not part of it, nor which object it is, nor what filters only afterwards.
    save_tokenizers(tmp_path / "saved", source_tokenizer, target_tokenizer)
    loaded = load_tokenizers(tmp_path / "saved")
    source_tokenizer(GERMAN, truncation=True, max_length=3, padding=True)
    counting.new()
    assert not run()[0]
    assert not run(source=loaded[0], target=loaded[1])[0]
    assert not run(max_source_length=20)[0]
    assert run(max_source_length=9)[2] != report

    # Everything else is.
    other = train_tokenizer(GERMAN * 3, kind="bpe", vocab_size=301)
    lowercase = train_tokenizer(ENGLISH * 3, kind="word", vocab_size=60, lowercase=True)
    counting.new()
    assert run(source=other)[0]
    assert run(target=lowercase)[0]
    assert run(source=target_tokenizer, target=source_tokenizer)[0]
    assert run(drop_long=False)[0]
    assert run(drop_long=False, max_source_length=6)[0]
    assert run(data=pairs.select([4, 3, 2, 1, 0]))[0]


def test_no_warning_that_a_sentence_is_too_long_for_the_tokenizer(pairs, tmp_path, caplog):
    short = train_tokenizer(GERMAN, kind="word", vocab_size=30, min_frequency=1)
    short.model_max_length = 3
    logging.getLogger("transformers").addHandler(caplog.handler)
    tokenize_parallel(pairs, short, short, max_source_length=50, max_target_length=50)
    logging.getLogger("transformers").removeHandler(caplog.handler)
    assert not caplog.records


# Collation


def test_collation_pads_each_side_to_its_longest():
    batch = collate(
        [{"input_ids": [5, 6, 3], "labels": [7, 3]}, {"input_ids": [8, 3], "labels": [9, 10, 11, 3]}], pad_token_id=1
    )
    assert batch["input_ids"].tolist() == [[5, 6, 3], [8, 3, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[7, 3, -100, -100], [9, 10, 11, 3]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert all(tensor.is_contiguous() for tensor in batch.values())


def test_collation_sets_copies_of_all_rows_below_each_other():
    examples = [{"input_ids": [5, 6, 3], "labels": [7, 3]}, {"input_ids": [8, 3], "labels": [9, 10, 11, 3]}]
    once, twice = (collate(examples, pad_token_id=1, copies=copies) for copies in (1, 2))
    assert all(torch.equal(twice[name], torch.cat([rows, rows])) for name, rows in once.items())


def test_collation_agrees_with_a_loop_over_tokens():
    generator = np.random.default_rng(0)
    examples = [
        {name: generator.integers(4, 99, size=generator.integers(1, 12)).tolist() for name in ("input_ids", "labels")}
        for _ in range(50)
    ]
    batch = collate(examples, pad_token_id=1)
    for row, example in enumerate(examples):
        for name, fill in (("input_ids", 1), ("labels", -100)):
            padding = [fill] * (batch[name].shape[1] - len(example[name]))
            assert batch[name][row].tolist() == example[name] + padding
        assert batch["attention_mask"][row].sum() == len(example["input_ids"])

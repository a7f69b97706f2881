"""Loading, tokenising and packing text for GPT-1."""

import json

import datasets
import numpy as np
import pytest
from datasets import Dataset, load_dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gpt1_scratch.pretraining import packing
from gpt1_scratch.pretraining.corpora import load_texts
from gpt1_scratch.pretraining.packing import (
    PartlyCutBlocks,
    StreamPacker,
    cut_blocks,
    pack_blocks,
    stream_blocks,
    tokenize_texts,
    tokenizer_key,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SEPARATOR = 99


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / ".cache")
    datasets.disable_progress_bars()


def letter_tokenizer(first: int = 0) -> PreTrainedTokenizerFast:
    """Returns a tokenizer with a token for every word of one letter."""
    vocab = {"<unk>": 50, **{letter: first + number for number, letter in enumerate(LETTERS)}}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def rows_of(*lengths: int) -> list[str]:
    """Returns texts of the given numbers of words, which repeat the alphabet."""
    letters = iter(LETTERS * 20)
    return [" ".join(next(letters) for _ in range(length)) for length in lengths]


def packed(texts: list[str], block_size: int, **settings):
    return pack_blocks(tokenize_texts(Dataset.from_dict({"text": texts}), letter_tokenizer()), block_size, **settings)


def test_packing_loses_no_token_but_the_last_partial_block():
    lengths = (3, 0, 11, 1, 29, 7, 2)
    result = packed(rows_of(*lengths), block_size=8)
    everything = [number % 26 for number in range(sum(lengths))]
    assert np.concatenate(result.blocks["input_ids"]).tolist() == everything[: 8 * 6]
    assert result.tokens == 53 and result.dropped_tokens == 5 and result.rows == 7
    assert result.words == 53 and result.bytes == sum(2 * length - 1 for length in lengths if length)
    assert "position_ids" not in result.blocks.column_names


def test_separate_documents_restart_positions_at_documents_and_blocks():
    result = packed(rows_of(3, 6, 0, 2, 5), block_size=4, separate_documents=True)
    assert np.asarray(result.blocks["position_ids"]).tolist() == [
        [0, 1, 2, 0],
        [0, 1, 2, 3],
        [0, 0, 1, 0],
        [0, 1, 2, 3],
    ]
    assert result.dropped_tokens == 0


def test_separator_stands_before_every_document_with_text():
    result = packed(rows_of(2, 0, 3), block_size=7, separate_documents=True, separator_id=SEPARATOR)
    assert list(result.blocks["input_ids"][0]) == [SEPARATOR, 0, 1, SEPARATOR, 2, 3, 4]
    assert list(result.blocks["position_ids"][0]) == [0, 1, 2, 0, 1, 2, 3]
    assert result.tokens == 7


def test_cutting_as_it_comes_equals_a_plain_reshape():
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, 50, size) for size in generator.integers(0, 40, 60)]
    everything = np.concatenate([[SEPARATOR, *row] for row in rows if len(row)])
    blocks = [block["input_ids"] for block in cut_blocks(rows, 16, separator_id=SEPARATOR)]
    assert np.array_equal(blocks, everything[: len(everything) // 16 * 16].reshape(-1, 16))


def test_a_share_of_the_blocks_is_cut_and_every_token_stays():
    blocks = packed(rows_of(*[16] * 11), block_size=16).blocks
    cut = PartlyCutBlocks(blocks, short_block_size=4, share=0.7, blocks_per_batch=2, seed=3)
    examples = [cut[index]["input_ids"].tolist() for index in range(len(cut))]
    # 0.7 would be seven of eleven blocks; six is a multiple of 2.
    assert sorted(map(len, examples)) == [4] * 24 + [16] * 5 == sorted(cut.lengths[:, 0].tolist())
    assert [len(example) for example in examples] == cut.lengths[:, 0].tolist()
    whole = [example for example in examples if len(example) == 16]
    joined = [sum(examples[start : start + 4], []) for start in range(0, 24, 4)]
    assert sorted(whole + joined) == sorted(blocks["input_ids"])
    assert cut.places.tolist() != PartlyCutBlocks(blocks, 4, 0.7, 2, seed=4).places.tolist()


def test_a_share_of_the_short_blocks_repeats_its_first_tokens():
    blocks = Dataset.from_dict({"input_ids": np.arange(640).reshape(10, 64)})
    plain, repeating = (PartlyCutBlocks(blocks, 32, 0.8, 1, seed=3, repeated_share=share) for share in (0.0, 0.25))
    assert np.array_equal(plain.places, repeating.places)
    periods = []
    for before, after in zip(plain, repeating, strict=True):
        before, after = before["input_ids"], after["input_ids"]
        assert len(before) == len(after)
        if not np.array_equal(before, after):
            # No token comes twice in the text, so the first one's second place says how long the passage is.
            period = int(np.flatnonzero(after == after[0])[1])
            assert np.array_equal(after, before[np.arange(32) % period])
            periods.append(period)
    assert len(periods) == 4  # of 16
    assert all(8 <= period <= 16 for period in periods) and len(set(periods)) > 1


def test_blocks_too_short_for_a_passage_to_repeat_itself_are_refused():
    blocks = packed(rows_of(32, 32), block_size=32).blocks
    with pytest.raises(ValueError, match="short_block_size is 8; with repeated_block_share it must be at least 16"):
        PartlyCutBlocks(blocks, 8, 1.0, 1, seed=0, repeated_share=0.5)


@pytest.mark.parametrize("size", [1, 5, 16, 32])
def test_short_blocks_that_do_not_fill_the_others_are_refused(size):
    blocks = packed(rows_of(16, 16), block_size=16).blocks
    with pytest.raises(ValueError, match=f"short_block_size is {size}; it must be at least 2, less than the block"):
        PartlyCutBlocks(blocks, size, share=0.5, blocks_per_batch=1, seed=0)


def test_groups_of_any_size_are_tokenised_alike(monkeypatch):
    texts = Dataset.from_dict({"text": [*rows_of(3, 50, 0, 4), None]})
    expected = tokenize_texts(texts, letter_tokenizer())["input_ids"][:]
    monkeypatch.setattr(packing, "CHARACTER_CHUNK_SIZE", 7)
    texts = Dataset.from_dict({"text": [*rows_of(3, 50, 0, 4), None], "other": [1] * 5}).select_columns("text")
    assert tokenize_texts(texts, letter_tokenizer())["input_ids"][:] == expected
    assert [len(row) for row in expected] == [3, 50, 0, 4, 0]


def test_tokens_are_cached_under_the_tokenizer(tmp_path, monkeypatch):
    calls = []
    encode = packing._encode
    monkeypatch.setattr(packing, "_encode", lambda *arguments: calls.append(1) or encode(*arguments))
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows_of(5, 6)))
    for texts in (load_texts(file), Dataset.from_dict({"text": rows_of(5, 6)})):
        calls.clear()
        first = tokenize_texts(texts, letter_tokenizer())
        assert len(calls) == 1
        again = tokenize_texts(texts, letter_tokenizer())
        assert len(calls) == 1 and again["input_ids"][:] == first["input_ids"][:]
        other = tokenize_texts(texts, letter_tokenizer(first=20))
        assert len(calls) == 2 and other["input_ids"][0][0] == 20


def test_tokenizer_key_depends_on_the_vocabulary_and_not_on_use():
    tokenizer = letter_tokenizer()
    key = tokenizer_key(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<unk>"})
    tokenizer(["a b c d", "a"], truncation=True, max_length=2, padding=True)
    assert tokenizer_key(tokenizer) == key == tokenizer_key(letter_tokenizer())
    assert tokenizer_key(letter_tokenizer(first=1)) != key


def test_blocks_are_made_anew_for_other_settings():
    texts = rows_of(30)
    assert len(packed(texts, 10).blocks) == 3
    assert len(packed(texts, 15).blocks) == 2
    assert "position_ids" in packed(texts, 10, separate_documents=True).blocks.column_names


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet", "csv"])
def test_files_of_every_kind_are_read(kind, tmp_path):
    texts = ["One caf\u00e9.\nTwo, \u201cthree\u201d.", "Four."]
    paths = [tmp_path / f"corpus.{kind}"]
    if kind == "txt":
        paths.append(tmp_path / "second.txt")
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text, encoding="utf-8")
    else:
        rows = Dataset.from_dict({"number": [1, 2], "text": texts})
        {"jsonl": rows.to_json, "parquet": rows.to_parquet, "csv": rows.to_csv}[kind](str(paths[0]))
    assert load_texts(paths)["text"][:] == texts
    assert [row["text"] for row in load_texts(paths, streaming=True)] == texts
    assert load_texts(paths, split="train[:50%]")["text"][:] == texts[:1]
    assert load_texts(tmp_path)["text"][:] == texts


def test_lines_of_a_text_file_can_be_rows(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("one\n\ntwo\n")
    assert load_texts(path, row="line")["text"][:] == ["one", "", "two"]


def test_another_column_can_hold_the_text(tmp_path):
    path = tmp_path / "corpus.parquet"
    Dataset.from_dict({"id": [1], "content": ["words"]}).to_parquet(str(path))
    texts = load_texts(path, text_column="content")
    assert texts.column_names == ["text"] and texts["text"][0] == "words"
    with pytest.raises(ValueError, match="no column 'text'; it has 'id', 'content'"):
        load_texts(path)


def test_embedded_stories_are_a_source():
    validation = load_texts("stories", split="validation")
    assert len(validation) == 1000 and validation.column_names == ["text"]
    assert load_texts("stories", split="validation[:10]")["text"][:] == validation["text"][:10]
    with pytest.raises(ValueError, match="no split 'test'; it has 'train', 'validation'"):
        load_texts("stories", split="test")


def test_processes_stream_shares_that_are_disjoint_and_complete(tmp_path):
    path = tmp_path / "corpus.jsonl"
    Dataset.from_dict({"text": rows_of(*[6] * 12)}).to_json(str(path))
    texts = load_dataset("json", data_files=str(path), split="train", streaming=True)
    shares = [
        [list(block["input_ids"]) for block in stream_blocks(texts, letter_tokenizer(), 6, rank=rank, world_size=3)]
        for rank in range(3)
    ]
    whole = [list(block["input_ids"]) for block in stream_blocks(texts, letter_tokenizer(), 6)]
    assert [len(share) for share in shares] == [4, 4, 4] and len(whole) == 12
    assert sorted(sum(shares, [])) == sorted(whole)


def test_streamed_blocks_equal_stored_ones(tmp_path):
    path = tmp_path / "corpus.jsonl"
    Dataset.from_dict({"text": rows_of(5, 17, 0, 9, 30)}).to_json(str(path))
    settings = {"block_size": 8, "separate_documents": True, "separator_id": SEPARATOR}
    stored = pack_blocks(tokenize_texts(load_texts(path), letter_tokenizer()), **settings).blocks
    streamed = list(stream_blocks(load_texts(path, streaming=True), letter_tokenizer(), **settings))
    assert len(streamed) == len(stored) == 8
    for one, other in zip(streamed, stored, strict=True):
        assert {name: list(values) for name, values in one.items()} == {name: list(v) for name, v in other.items()}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_stream_packed_in_parts_equals_one_packed_at_once(size):
    texts = rows_of(5, 17, 0, 9, 30, 1, 8, 8)
    packer = StreamPacker(letter_tokenizer(), 8, separate_documents=True, separator_id=SEPARATOR)
    whole, left_over_at_once = packer({"text": texts})
    parts, left_over = [], None
    for start in range(0, len(texts), size):
        blocks, left_over = packer({"text": texts[start : start + size]}, left_over)
        parts, left_over = [*parts, *blocks], json.loads(json.dumps(left_over))
    assert left_over == left_over_at_once and 0 < len(left_over["input_ids"]) < 8
    assert len(parts) == len(whole) == (sum((5, 17, 9, 30, 1, 8, 8)) + 7) // 8
    for one, other in zip(parts, whole, strict=True):
        assert {name: list(values) for name, values in one.items()} == {name: list(v) for name, v in other.items()}


@pytest.mark.parametrize(
    ("texts", "message"),
    [([], "empty"), (["", "  "], "empty"), (rows_of(4), "4 tokens, less than one block of 8")],
)
def test_a_corpus_without_one_block_is_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        packed(texts, block_size=8)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_an_empty_file_is_refused(kind, tmp_path):
    path = tmp_path / f"empty.{kind}"
    path.write_text("")
    with pytest.raises(ValueError, match=f"empty.{kind} is empty"):
        load_texts(path)


def test_a_stream_without_one_block_is_refused():
    texts = Dataset.from_dict({"text": rows_of(4)}).to_iterable_dataset()
    with pytest.raises(ValueError, match="4 tokens, less than one block of 8"):
        list(stream_blocks(texts, letter_tokenizer(), 8))
    with pytest.raises(ValueError, match="rank is 2; with world_size 2"):
        stream_blocks(texts, letter_tokenizer(), 8, rank=2, world_size=2)


@pytest.mark.parametrize("size", [0, 1])
def test_blocks_that_predict_nothing_are_refused(size):
    with pytest.raises(ValueError, match="at least 2"):
        packed(rows_of(4), size)
    with pytest.raises(ValueError, match="at least 2"):
        stream_blocks(Dataset.from_dict({"text": ["a"]}).to_iterable_dataset(), letter_tokenizer(), size)


def test_wrong_bytes_are_named_with_their_line_and_offset(tmp_path):
    path = tmp_path / "novel.txt"
    text = "é€\U0001f600\r\n\ttwo".encode()
    path.write_bytes(text + b"\xe9 and more")
    with pytest.raises(ValueError, match=rf"novel.txt, line 2: byte 0xe9 at offset {len(text)} is not UTF-8"):
        load_texts(path)
    path.write_bytes(text + b"\x00\x01")
    with pytest.raises(ValueError, match=r"novel.txt, line 2: the character '\\x00' does not occur.*binary"):
        load_texts(path)
    path.write_bytes(text)
    assert load_texts(path)["text"][:] == ["é€\U0001f600\n\ttwo"]


def test_a_file_cut_within_a_character_is_refused(tmp_path):
    path = tmp_path / "cut.txt"
    path.write_bytes("abc€".encode()[:-1])
    with pytest.raises(ValueError, match="line 1: byte 0xe2 at offset 3 "):
        load_texts(path)


def test_missing_unknown_and_mixed_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="There is no file .*nothing.txt"):
        load_texts(tmp_path / "nothing.txt")
    (tmp_path / "a.doc").write_text("x")
    with pytest.raises(ValueError, match="a.doc ends in none of .txt"):
        load_texts(tmp_path / "a.doc")
    with pytest.raises(ValueError, match="No text file is given"):
        load_texts(tmp_path)
    for name in ("a.txt", "b.csv"):
        (tmp_path / name).write_text("text\nx\n")
    with pytest.raises(ValueError, match="several kinds are given \\(csv, text\\)"):
        load_texts([tmp_path / "a.txt", tmp_path / "b.csv"])
    with pytest.raises(ValueError, match="no split 'validation'; it has 'train'"):
        load_texts(tmp_path / "a.txt", split="validation")

"""Sentence pairs: all sources, all kinds of malformed files, tokenisation with its cache, and collation."""

import csv
import json
import logging
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

from seq2seq_scratch.data.batches import collate, tokenize_parallel
from seq2seq_scratch.data.corpora import load_parallel_data
from seq2seq_scratch.data.text_encoder import TextEncoder
from seq2seq_scratch.data.text_lines import read_lines
from seq2seq_scratch.tokenization import load_tokenizers, save_tokenizers, train_tokenizer

SHARED = Path(__file__).parents[3] / "shared"
ENGLISH = ["A man's hat.", '"Yes", he said, twice', "Two\u2028dogs", "", "snow; grass"]
GERMAN = ["Ein Hut.", 'Er sagte "ja", zweimal', "Zwei\x85Hunde", "leer", "Schnee; Gras"]
LANGUAGES = {"source_language": "de", "target_language": "en"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_file(path, kind, named=("de", "en")):
    """Writes the five pairs as a file of a kind."""
    pairs = [{"de": german, "en": english} for german, english in zip(GERMAN, ENGLISH, strict=True)]
    columns = [dict(zip(named, (pair["de"], pair["en"]), strict=True)) for pair in pairs]
    if kind == "parquet, translation":
        path = path.with_suffix(".parquet")
        datasets.Dataset.from_dict({"id": range(5), "translation": pairs}).to_parquet(path)
    elif kind == "parquet, Translation feature":
        path = path.with_suffix(".parquet")
        features = datasets.Features({"translation": datasets.Translation(["de", "en"])})
        datasets.Dataset.from_dict({"translation": pairs}, features=features).to_parquet(path)
    elif kind in ("parquet, JSON objects", "parquet, maps"):
        path = path.with_suffix(".parquet")
        maps = pyarrow.array([list(pair.items()) for pair in pairs], pyarrow.map_(pyarrow.string(), pyarrow.string()))
        column = maps if kind == "parquet, maps" else list(map(json.dumps, pairs))
        parquet.write_table(pyarrow.table({"translation": column}), path)
    elif kind == "parquet":
        path = path.with_suffix(".parquet")
        datasets.Dataset.from_list(columns).to_parquet(path)
    elif kind == "parquet, large strings":
        path = path.with_suffix(".parquet")
        features = datasets.Features({name: datasets.Value("large_string") for name in named})
        datasets.Dataset.from_list(columns, features=features).to_parquet(path)
    elif kind == "JSON lines, translation":
        path = path.with_suffix(".jsonl")
        path.write_text("\n".join(json.dumps({"id": 1, "translation": pair}) for pair in pairs) + "\n\n")
    elif kind == "JSON lines":
        path = path.with_suffix(".json")
        path.write_text("\n".join(json.dumps(pair, ensure_ascii=False) for pair in columns), encoding="utf-8")
    elif kind in ("CSV", "CSV, translation"):
        path = path.with_suffix(".csv")
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file)
            if kind == "CSV":
                writer.writerows([named, *(pair.values() for pair in columns)])
            else:
                writer.writerows([["translation"], *([json.dumps(pair)] for pair in pairs)])
    elif kind == "TSV":
        path = path.with_suffix(".tsv")
        lines = ["\t".join(named), *("\t".join(pair.values()) for pair in columns)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    elif kind == "text":
        for language, lines in (("de", GERMAN), ("en", ENGLISH)):
            Path(f"{path}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    return str(path)


KINDS = [
    "parquet, translation",
    "parquet, Translation feature",
    "parquet, JSON objects",
    "parquet, maps",
    "parquet",
    "parquet, large strings",
    "JSON lines, translation",
    "JSON lines",
    "CSV",
    "CSV, translation",
    "TSV",
    "text",
]
KINDS_WITH_COLUMNS = ["parquet", "JSON lines", "CSV", "TSV"]


def sides(dataset):
    return list(dataset["source"]), list(dataset["target"])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_pairs(tmp_path, kind, streaming):
    path = write_file(tmp_path / "data", kind)
    splits = load_parallel_data(
        train_file=path, validation_file=path, test_file=path, streaming=streaming, **LANGUAGES
    )
    assert list(splits) == ["train", "validation", "test"]
    assert isinstance(splits["train"], datasets.IterableDataset) == streaming
    assert isinstance(splits["test"], datasets.Dataset)
    for split in splits.values():
        assert split.features == datasets.Features({side: datasets.Value("string") for side in ("source", "target")})
        assert sides(split) == (GERMAN, ENGLISH)


@pytest.mark.parametrize("kind", KINDS_WITH_COLUMNS)
def test_columns_may_have_any_name(tmp_path, kind):
    path = write_file(tmp_path / "data", kind, named=("from", "to"))
    splits = load_parallel_data(test_file=path, source_column="from", target_column="to", **LANGUAGES)
    assert sides(splits["test"]) == (GERMAN, ENGLISH)


def test_named_columns_come_before_translation(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"translation": "what a column", "a": "x", "b": "y"}))
    splits = load_parallel_data(test_file=str(path), source_column="a", target_column="b", **LANGUAGES)
    assert sides(splits["test"]) == (["x"], ["y"])


def test_a_folder_is_loaded_as_a_data_set(tmp_path):
    (tmp_path / "set").mkdir()
    for split in ("train", "validation"):
        write_file(tmp_path / "set" / split, "JSON lines, translation")
    for streaming in (False, True):
        splits = load_parallel_data(dataset_name=str(tmp_path / "set"), streaming=streaming, **LANGUAGES)
        assert list(splits) == ["train", "validation"]
        assert sides(splits["train"]) == sides(splits["validation"]) == (GERMAN, ENGLISH)
        assert isinstance(splits["validation"], datasets.Dataset)


def test_a_text_file_with_windows_line_ends_reads_the_same(tmp_path):
    (tmp_path / "data.de").write_bytes(b"eins\r\nzwei\r\n")
    (tmp_path / "data.en").write_bytes(b"one\ntwo")
    splits = load_parallel_data(test_file=str(tmp_path / "data"), **LANGUAGES)
    assert sides(splits["test"]) == (["eins", "zwei"], ["one", "two"])


def test_lines_of_a_text_file_are_read_as_strictly(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffeins\r\n\nzwei\u2028drei".encode())
    assert read_lines(str(path)) == ["eins", "", "zwei\u2028drei"]
    for content, message in ((b"", "is empty"), (b"a\n\xe4", "line 2: byte 0xe4 at offset 2 .*UTF-8")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_lines(str(path))
    with pytest.raises(ValueError, match="no file .*missing.txt"):
        read_lines(str(tmp_path / "missing.txt"))


def test_quoted_csv_fields_may_hold_line_feeds(tmp_path):
    (tmp_path / "data.csv").write_text('de,en\n"ein ""Hut"",\nrot",hat\n')
    splits = load_parallel_data(test_file=str(tmp_path / "data.csv"), **LANGUAGES)
    assert sides(splits["test"]) == (['ein "Hut",\nrot'], ["hat"])


@pytest.mark.parametrize("extension", ["parquet", "jsonl"])
def test_missing_text_is_empty_text(tmp_path, extension):
    path = tmp_path / f"data.{extension}"
    rows = [{"translation": {"de": None, "en": "a"}}, {"translation": None}, {"translation": {"de": "b", "en": "c"}}]
    if extension == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    for streaming in (False, True):
        train = load_parallel_data(train_file=str(path), streaming=streaming, validation_size=0, **LANGUAGES)["train"]
        assert sides(train) == (["", "", "b"], ["a", "", "c"])


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "data.tsv"
    for word in ("one", "three"):
        path.write_text(f"de\ten\neins\t{word}\n")
        assert sides(load_parallel_data(test_file=str(path), **LANGUAGES)["test"]) == (["eins"], [word])


def test_the_embedded_data_set_has_a_split_of_long_numbers():
    splits = load_parallel_data(dataset_name="numbers", source_language="ja", target_language="ko")
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 20_000,
        "validation": 500,
        "test": 1_000,
        "test_long": 500,
    }
    assert max(map(len, splits["train"]["source"])) < min(map(len, splits["test_long"]["source"]))


def many_pairs(tmp_path, count=200):
    lines = [f"{number}\tnumber {number}" for number in range(count)]
    (tmp_path / "many.tsv").write_text("\n".join(["de\ten", *lines]))
    return str(tmp_path / "many.tsv")


def test_validation_pairs_are_held_out_of_training(tmp_path):
    path = many_pairs(tmp_path)

    def load(**settings):
        splits = load_parallel_data(train_file=path, **LANGUAGES, **settings)
        return sides(splits["train"])[0], sides(splits["validation"])[0]

    train, validation = load(seed=1)
    assert len(validation) == 20  # a tenth
    assert sorted(train + validation, key=int) == [str(number) for number in range(200)]
    assert load(seed=1) == (train, validation)
    assert set(load(seed=2)[1]) != set(validation)
    assert len(load(validation_size=7)[1]) == 7
    assert "validation" not in load_parallel_data(train_file=path, validation_size=0, **LANGUAGES)
    streamed = load(streaming=True, validation_size=30)
    assert streamed == ([str(number) for number in range(30, 200)], [str(number) for number in range(30)])


def test_a_validation_file_leaves_training_whole(tmp_path):
    path = many_pairs(tmp_path)
    splits = load_parallel_data(train_file=path, validation_file=path, **LANGUAGES)
    assert len(splits["train"]) == len(splits["validation"]) == 200


@pytest.mark.parametrize("streaming", [False, True])
def test_only_the_first_pairs_are_kept_on_request(tmp_path, streaming):
    path = many_pairs(tmp_path)
    for asked, kept in ((3, 3), (1000, 200)):
        splits = load_parallel_data(
            train_file=path, validation_file=path, max_train_samples=asked, streaming=streaming, **LANGUAGES
        )
        assert sides(splits["train"])[0] == [str(number) for number in range(kept)]
        assert len(splits["validation"]) == 200
    splits = load_parallel_data(
        train_file=path, validation_file=path, max_eval_samples=5, streaming=streaming, **LANGUAGES
    )
    assert sides(splits["validation"])[0] == [str(number) for number in range(5)]
    assert len(sides(splits["train"])[0]) == 200


LATIN_1 = "eins\nzwei\nschön\n".encode("latin-1")


@pytest.mark.parametrize(
    ("files", "setting", "message"),
    [
        ({}, "data.jsonl", "test_file: there is no file .*data.jsonl"),
        ({}, "data.parquet", "test_file: there is no file .*data.parquet"),
        ({}, "data", r"test_file: there is no file .*data, nor .*data\.de and .*data\.en are missing"),
        ({"data.de": b"a\n"}, "data", r"test_file: .*data\.en is missing"),
        ({"data.xml": b"a\n"}, "data.xml", r"unknown extension '\.xml'.*\.csv, .*\.parquet.*data\.de and data\.en"),
        ({"data.de": b"a\nb\nc\n", "data.en": b"a\nb\n"}, "data", r"data\.de has 3 lines, but .*data\.en has 2"),
        ({"data.de": b"a\n", "data.en": b"a\n\nc\nd"}, "data", r"data\.de has 1 line, but .*data\.en has 4"),
        ({"data.de": LATIN_1, "data.en": b"1\n2\n3\n"}, "data", r"data\.de, line 3: byte 0xf6 at offset 13 .*UTF-8"),
        ({"data.tsv": b"de\ten\n\xff\ta\n"}, "data.tsv", r"data\.tsv, line 2: byte 0xff at offset 6 .*UTF-8"),
        ({"data.de": b"", "data.en": b""}, "data", r"data\.de is empty"),
        ({"data.jsonl": b""}, "data.jsonl", r"data\.jsonl is empty"),
        ({"data.csv": b""}, "data.csv", r"data\.csv is empty"),
        ({"data.csv": b"de,en\n"}, "data.csv", r"data\.csv is empty"),
        ({"data.jsonl": b"\n \n"}, "data.jsonl", r"data\.jsonl is empty"),
        (
            {"data.jsonl": b'{"de": "a", "en": "b"}\n{"de": "a", "en"'},
            "data.jsonl",
            r"line 2: not valid JSON at column",
        ),
        ({"data.json": b'[\n{"de": "a"}]'}, "data.json", r"item 1 of the list: there is no column 'en'; it has de"),
        ({"data.json": b'[\n{"de": "a"}'}, "data.json", r"line 2: not valid JSON.*one list of JSON objects"),
        ({"data.jsonl": b'["a", "b"]'}, "data.jsonl", r"line 1: holds list.*one JSON object"),
        ({"data.jsonl": b'{"de": 3, "en": "b"}'}, "data.jsonl", r"line 1: de holds int \(3\), not text"),
        ({"data.jsonl": b'{"de": "a", "fr": "b"}'}, "data.jsonl", r"line 1: .*no column 'en'; it has de, fr"),
        (
            {"data.jsonl": b'{"translation": {"de": "a", "en": "b"}}\n{"translation": {"de": "a", "fr": "b"}}'},
            "data.jsonl",
            r"line 2: .*translation has no 'en' \(target_language\); it has de, fr",
        ),
        ({"data.jsonl": b'{"translation": ["a", "b"]}'}, "data.jsonl", r"line 1: translation holds \['a', 'b'\]"),
        ({"data.csv": b"translation\n{'de': 'a'}\n"}, "data.csv", r"line 2: translation holds .*not a JSON object"),
        ({"data.csv": b"de,fr\na,b\n"}, "data.csv", r"no column 'en'; it has de, fr.*target_column"),
        (
            {"data.csv": b"de,en\na,b\nc\n"},
            "data.csv",
            r"line 3: has 1 field, but the first line names 2 columns .*de, en",
        ),
        ({"data.csv": b'de,en\na,"b\n'}, "data.csv", r"data\.csv, line 2: unexpected end of data"),
        ({"data.parquet": b"no parquet"}, "data.parquet", r"data\.parquet is not a parquet file"),
    ],
)
def test_a_malformed_file_raises_an_error_that_names_the_place(tmp_path, files, setting, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_parallel_data(test_file=str(tmp_path / setting), **LANGUAGES)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"translation": [{"de": "a", "fr": "b"}]}, r"data\.parquet: .*translation has no 'en'.*; it has de, fr"),
        ({"de": ["a"], "text": ["b"]}, r"data\.parquet: there is no column 'en'; it has de, text"),
        ({"de": ["a"], "en": [7]}, r"data\.parquet: en holds int \(7\), not text"),
    ],
)
def test_wrong_parquet_columns_raise_an_error_that_names_them(tmp_path, columns, message, streaming):
    path = tmp_path / "data.parquet"
    datasets.Dataset.from_dict(columns).to_parquet(path)
    with pytest.raises(ValueError, match=message):
        list(load_parallel_data(train_file=str(path), streaming=streaming, validation_size=0, **LANGUAGES)["train"])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"en": ["d"], "de": ["c"], "score": [0.5]}, (["a", "c"], ["b", "d"])),
        ({"de": pyarrow.array(["c"]).dictionary_encode(), "en": [None]}, (["a", "c"], ["b", ""])),
        ({"translation": [{"en": "d", "de": "c"}]}, (["a", "c"], ["b", "d"])),
        ({"de": ["c"], "fr": ["d"]}, r"z\.parquet: there is no column 'en'; it has de, fr"),
        ({"de": ["c"], "en": [7]}, r"z\.parquet: en holds int \(7\), not text"),
    ],
)
def test_every_parquet_file_of_a_folder_is_read_by_its_own_columns(tmp_path, other, expected, streaming):
    notes = pyarrow.array([[("key", "a note")]], pyarrow.map_(pyarrow.string(), pyarrow.string()))
    parquet.write_table(
        pyarrow.table({"score": [1], "notes": notes, "de": ["a"], "en": ["b"]}), tmp_path / "a.parquet"
    )
    parquet.write_table(pyarrow.table(other), tmp_path / "z.parquet")

    def load():
        settings = {"streaming": streaming, "validation_size": 0, **LANGUAGES}
        return sides(load_parallel_data(train_file=str(tmp_path), **settings)["train"])

    if isinstance(expected, tuple):
        assert load() == expected
    else:
        with pytest.raises(ValueError, match=expected):
            load()


def test_an_empty_parquet_file_is_named(tmp_path):
    datasets.Dataset.from_dict({"de": [], "en": []}).to_parquet(tmp_path / "data.parquet")
    with pytest.raises(ValueError, match=r"data\.parquet is empty"):
        load_parallel_data(test_file=str(tmp_path / "data.parquet"), **LANGUAGES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "set dataset_name, or train_file"),
        ({"dataset_name": "numbers", "train_file": "a"}, "dataset_name is 'numbers', but train_file is set too"),
        ({"dataset_name": "numbers", "target_language": "de"}, "source_language and target_language are both 'de'"),
        ({"dataset_name": "numbers", "target_language": "qq"}, "target_language: num2words has no language 'qq'"),
        ({"dataset_name": "pairs.csv"}, "dataset_name is 'pairs.csv', which is a file. Name it with train_file"),
        ({"test_file": "a", "max_train_samples": 0}, "max_train_samples is 0"),
        ({"test_file": "a", "validation_size": -1}, "validation_size is -1"),
        ({"test_file": "pairs.csv", "source_column": "en"}, "source and target are both the column 'en'. Set both"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pairs.csv").write_text("de,en\na,b\n")
    with pytest.raises(ValueError, match=message):
        load_parallel_data(**{**LANGUAGES, **settings})


# Tokenisation


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


def test_multi30k_is_read_whole():
    folder = SHARED / "data" / "multi30k"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; the other tests read files of every kind")
    splits = load_parallel_data(
        train_file=str(folder / "train.parquet"), test_file=str(folder / "test_2016_flickr.parquet"), **LANGUAGES
    )
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 28_000,
        "validation": 1_000,
        "test": 1_000,
    }
    assert splits["test"][0]["source"].startswith("Ein Mann mit einem orangefarbenen Hut")


def test_a_pair_of_text_files_goes_before_a_folder_of_their_name(tmp_path):
    name = str(tmp_path / "train")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "notes.json").write_text("not data")
    for language, text in (("en", "one"), ("de", "eins")):
        (tmp_path / f"train.{language}").write_text(f"{text}\n")
    pairs = load_parallel_data(train_file=name, validation_file=name, source_language="en", target_language="de")
    assert pairs["train"][0] == {"source": "one", "target": "eins"}

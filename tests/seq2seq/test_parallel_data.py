"""Sentence pairs: all sources, and all kinds of malformed files."""

import json
from pathlib import Path

import datasets
import pyarrow
import pytest
from parallel_files import ENGLISH, GERMAN, LANGUAGES, write_file
from pyarrow import parquet

from seq2seq_scratch.data.corpora import load_parallel_data
from seq2seq_scratch.data.text_lines import read_lines

SHARED = Path(__file__).parents[3] / "shared"

pytestmark = pytest.mark.usefixtures("own_cache")

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


@pytest.mark.parametrize(
    ("kind", "is_data_set"), [("parquet", True), ("JSON lines", True), *((kind, False) for kind in KINDS_WITH_COLUMNS)]
)
def test_one_column_may_be_both_sides(tmp_path, kind, is_data_set):
    (tmp_path / "set").mkdir()
    path = write_file(tmp_path / "set" / "test", kind)
    source = {"dataset_name": str(tmp_path / "set")} if is_data_set else {"test_file": path}
    splits = load_parallel_data(**source, source_column="de", target_column="de", **LANGUAGES)
    assert sides(splits["test"]) == (GERMAN, GERMAN)


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


DEEP = b'{"de": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
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
        (
            {"data.csv": b"translation\n{'de': 'a'}\n"},
            "data.csv",
            r"line 2, translation .*not valid JSON.*must be a JSON obj",
        ),
        (
            {"data.tsv": b'translation\n{"de": "a", "en": "b"}\n{"de": "\\ud83d", "en": "b"}\n'},
            "data.tsv",
            r"data\.tsv, line 3, translation .*ud83d is half",
        ),
        (
            {"data.tsv": b"translation\n" + DEEP + b"\n"},
            "data.tsv",
            r"line 2, .*too many lists .*must be a JSON object",
        ),
        (
            {"data.tsv": b'translation\n{"de": "a", "en": "b", "de": "c"}\n'},
            "data.tsv",
            r"line 2, .*names the column 'de' twice",
        ),
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

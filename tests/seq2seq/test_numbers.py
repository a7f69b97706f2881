"""The embedded data set, against num2words and its documentation."""

from collections import Counter

import datasets
import pytest
from num2words import num2words

from seq2seq_scratch.data.numbers import load_numbers

SMALL = {"train_size": 300, "validation_size": 30, "test_size": 40, "test_long_size": 25}
EVERY_NUMBER = {num2words(number, lang="en"): number for number in range(10_000)}


def small_numbers(**settings) -> datasets.DatasetDict:
    return load_numbers(**{**SMALL, "maximum": 9_999, **settings})


def source_texts(dataset: datasets.Dataset, language: str = "en") -> list[str]:
    return [pair[language] for pair in dataset["translation"]]


def test_splits_have_the_asked_sizes_and_one_translation_column():
    splits = small_numbers()
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 300,
        "validation": 30,
        "test": 40,
        "test_long": 25,
    }
    for split in splits.values():
        assert split.features == datasets.Features({"translation": datasets.Translation(languages=("en", "de"))})


def test_both_sides_of_every_row_are_the_same_number():
    for split in small_numbers().values():
        for pair in split["translation"]:
            assert pair["de"] == num2words(EVERY_NUMBER[pair["en"]], lang="de")


def test_no_number_is_in_two_splits():
    count = Counter(EVERY_NUMBER[text] for split in small_numbers().values() for text in source_texts(split))
    assert set(count.values()) == {1}


@pytest.mark.parametrize("language", ["en", "ja"])  # in Japanese a quarter of all texts are of one length
def test_long_texts_are_longer_than_all_others(language):
    splits = small_numbers(source_language=language, target_language="fr")
    shortest_of_long = min(map(len, source_texts(splits["test_long"], language)))
    for name in ("train", "validation", "test"):
        assert max(map(len, source_texts(splits[name], language))) < shortest_of_long
    assert len(splits["train"]) == 300


def test_the_seed_decides():
    first, again, other = small_numbers(seed=1), small_numbers(seed=1), small_numbers(seed=2)
    assert all(source_texts(first[name]) == source_texts(again[name]) for name in first)
    assert source_texts(first["train"]) != source_texts(other["train"])


def test_short_numbers_are_covered():
    digits = Counter(
        len(str(EVERY_NUMBER[text])) for split in small_numbers().values() for text in source_texts(split)
    )
    # Every number below 10 is drawn; uniform numbers would give four of two digits among 395.
    assert digits[1] == 10
    assert digits[2] > 60
    assert digits[4] > 60


def test_numbers_written_alike_are_kept_once(monkeypatch):
    # As num2words 0.5 writes 160783 and 161783 in Turkish.
    monkeypatch.setattr("seq2seq_scratch.data.numbers.num2words", lambda number, lang: f"{lang} {number // 2}")
    splits = small_numbers(train_size=450, test_size=50, validation_size=0, test_long_size=0, maximum=999)
    texts = source_texts(splits["train"]) + source_texts(splits["test"])
    assert len(set(texts)) == len(texts) == 500
    splits = small_numbers(train_size=0, test_size=0, validation_size=0, test_long_size=490, maximum=999)
    assert len(set(source_texts(splits["test_long"]))) == 490


def test_training_and_test_numbers_are_alike():
    splits = small_numbers(train_size=1000, test_size=500)
    means = [sum(map(len, texts)) / len(texts) for texts in (source_texts(splits[n]) for n in ("train", "test"))]
    assert means[0] == pytest.approx(means[1], rel=0.05)


def test_rows_survive_parquet(tmp_path):
    split = small_numbers()["validation"]
    split.to_parquet(tmp_path / "rows.parquet")
    loaded = datasets.load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path))
    assert loaded["train"]["translation"][:] == split["translation"][:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source_language": "english"}, "source_language: .*'english'.*Nearest: en, en_IN.*It has: am, ar"),
        ({"target_language": "qq"}, "target_language: .*'qq'.*It has: am, ar"),
        ({"target_language": "en"}, "source_language and target_language are both 'en'"),
        ({"source_language": "am"}, "cannot write .* 'am'.*maximum"),
        ({"maximum": 300}, "maximum is 300.*the splits need 370 numbers and 25 more"),
        ({"test_size": -1}, "test_size is -1"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        small_numbers(**settings)

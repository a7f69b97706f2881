"""Pairs of given sentences and their translations, in files that training reads."""

import json
import os
import sys

import pytest
from tiny_models import tiny_model, tiny_tokenizer

from papers_to_gpt import back_translate
from papers_to_gpt.translation import back_translation, decoding
from seq2seq_scratch.data.corpora import load_parallel_data
from seq2seq_scratch.tokenization import save_tokenizers
from seq2seq_scratch.translation import load_translator, translate

LINES = ["word4 word5", "word6", "", 'word7 "word8', "word9\tword4", "\u200b", "word10 word11 word5"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    translator = tiny_model("transformer")
    translator.generation_config.update(max_new_tokens=4)
    translator.save_pretrained(folder := tmp_path_factory.mktemp("reverse"))
    save_tokenizers(folder, tiny_tokenizer(), tiny_tokenizer())
    return folder


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "LINES_AT_A_TIME", 2)
    (tmp_path / "mono.txt").write_text("\n".join(LINES))

    def start(name, *arguments):
        words = ["back_translate.py", model, "--input_file", tmp_path / "mono.txt", "--output_file", tmp_path / name]
        monkeypatch.setattr(sys, "argv", [*map(str, words), "--bf16", "false", *arguments])
        back_translate.main()
        return tmp_path / name

    return start


def pairs_of(path):
    data = load_parallel_data(train_file=str(path), source_language="en", target_language="de", validation_size=0)
    return [(row["source"], row["target"]) for row in data["train"]]


@pytest.mark.parametrize("name", ["pairs.tsv", "pairs.jsonl", "pairs.tsv.gz", "pairs.parquet"])
def test_training_reads_the_pairs(name, run, model, capsys):
    targets = [line for line in LINES if line.strip() and line != "\u200b"]
    translated = translate(*load_translator(str(model)), targets, num_beams=2)
    pairs = [(best.text, target) for (best, *_), target in zip(translated, targets, strict=True)]
    expected = [(f"<BT> {source}", target) for source, target in pairs if source]
    if ".tsv" in name:
        expected = [(source, target.replace("\t", " ")) for source, target in expected]
    assert pairs_of(run(name, "--num_beams", "2", "--tag", "<BT>")) == expected
    counts = f"7 lines: {len(expected)} pairs. Left out: {7 - len(expected)} without text on one side, 0 whose"
    assert len(expected) > 2 and counts in capsys.readouterr().err


@pytest.mark.parametrize("name", ["own.tsv", "own.jsonl", "own.parquet"])
@pytest.mark.parametrize(("direction", "side"), [("forward", 0), ("backward", 1)])
def test_the_side_of_pairs_that_the_direction_names_is_translated(direction, side, name, run, tmp_path, model, capsys):
    rows = [("word4\nword5", "word6 word7"), ("word8", "word9 word10 word11"), ("", "word5"), ("word9 word9", "word8")]
    lines = [json.dumps({"translation": {"en": en, "de": de}}) for en, de in rows]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    arguments = ("--input_file", str(tmp_path / "train.jsonl"), "--direction", direction)
    found = pairs_of(run(name, *arguments))
    sentences = [row[side] for row in rows if row[side]]
    translated = [best.text for (best, *_) in translate(*load_translator(str(model)), sentences, num_beams=1)]
    pairs = [(each, text) if side == 0 else (text, each) for each, text in zip(sentences, translated, strict=True)]
    assert all(translated) and len(found) == len(sentences)
    assert found == [tuple(each.replace("\n", " ") if ".tsv" in name else each for each in pair) for pair in pairs]
    assert f"4 lines: {len(found)} pairs" in capsys.readouterr().err


def test_pairs_without_the_side_that_is_translated_are_named(run, tmp_path):
    (tmp_path / "train.tsv").write_text("en\tfr\nword4\tword5\n")
    message = "line 2: there is no column 'de'; it has en, fr. Columns are named .* or set target_language.$"
    with pytest.raises(ValueError, match=message):
        run("pairs.jsonl", "--input_file", str(tmp_path / "train.tsv"))
    with pytest.raises(ValueError, match="^input_file: there is no file .*missing.tsv"):
        run("pairs.jsonl", "--input_file", str(tmp_path / "missing.tsv"))


def test_empty_translations_and_copies_are_left_out_and_counted(run, monkeypatch, capsys):
    hypothesis = decoding.Hypothesis
    texts = {"word6": "", "word4 word5": "Word4  word5"}
    monkeypatch.setattr(
        decoding, "translate", lambda *model, **settings: [[hypothesis(texts.get(line, "new"))] for line in model[3]]
    )
    assert [target for _, target in pairs_of(run("pairs.jsonl"))] == [LINES[3], LINES[4], LINES[6]]
    assert "7 lines: 3 pairs. Left out: 3 without text on one side, 1 whose" in capsys.readouterr().err


def test_a_file_of_blank_lines_makes_no_pair_and_nobody_is_told_to_train_on_it(run, tmp_path, capsys):
    (tmp_path / "mono.txt").write_text("\n \n\u200b\n")
    path = run("pairs.jsonl")
    said = capsys.readouterr().err
    assert path.read_text() == "" and "3 lines: 0 pairs. Left out: 3 without text" in said
    assert f"No pair was made, so {path} has nothing to train on." in said and "To train on them" not in said


@pytest.mark.parametrize("source", ["mono.txt", "pairs.tsv"])
@pytest.mark.parametrize("name", ["pairs.jsonl.xz", "pairs.parquet"])
def test_what_is_drawn_is_continued_after_a_kill(name, source, run, tmp_path, monkeypatch, capsys):
    table = ["en\tde", *("a\t" + line.replace("\t", " ") for line in LINES)]
    (tmp_path / "pairs.tsv").write_text("\n".join(table) + "\n")
    arguments = ("--input_file", str(tmp_path / source), "--do_sample", "true", "--seed", "4", "--temperature", "1.5")
    expected = run(f"whole_{name}", *arguments).read_bytes()
    summary = capsys.readouterr().err.splitlines()[0]
    with monkeypatch.context() as patch:
        answer = back_translation.is_copy
        patch.setattr(back_translation, "is_copy", lambda a, b: answer(a, b) if "word9" not in b else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(name, *arguments)
    assert run(name, *arguments, "--resume", "true").read_bytes() == expected
    assert summary in capsys.readouterr().err
    assert pairs_of(run("other.jsonl", *arguments[:-1], "0.0001")) != pairs_of(run(f"whole_{name}", *arguments))


def test_an_end_before_the_parquet_file_has_its_name_loses_nothing(run, tmp_path, monkeypatch):
    expected = run("whole.parquet").read_bytes()
    (tmp_path / "all").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(back_translation, "write_parquet", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("all/pairs.parquet")
    assert run("all/pairs.parquet", "--resume", "true").read_bytes() == expected
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["pairs.parquet", "pairs.parquet.resume"]
    assert pairs_of(tmp_path / "all") == pairs_of(tmp_path / "whole.parquet")  # training reads the folder


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_parquet_file_is_not_made_of_a_pipe(run, tmp_path):
    run("whole.parquet")
    (tmp_path / "mono.txt").unlink()
    os.mkfifo(tmp_path / "mono.txt")
    with pytest.raises(ValueError, match="mono.txt, which is not a regular file, but a .parquet file is made from"):
        run("pairs.parquet")
    assert not (tmp_path / "pairs.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "input_file is not set. Name both files"),
        (["--input_file", "a", "--output_file", "b.txt"], "output_file is b.txt; it must end in .tsv, .jsonl"),
        (["--input_file", "a", "--output_file", "b.parquet.gz"], "output_file is b.parquet.gz; it must end in"),
        (["--input_file", "a", "--output_file", "b.tsv", "--tag", "a b"], "tag is 'a b'; it must be one word"),
        (["--input_file", "a", "--output_file", "b.tsv", "--target_language", "en"], "are both 'en'"),
        (["--input_file", "a", "--output_file", "b.tsv", "--top_k", "3"], "top_k is set, but do_sample is false"),
    ],
)
def test_settings_that_do_not_go_together_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        back_translate.parse(["runs/mine", *arguments])

"""The constraints of `translate.py`: its files, its column of prefixes, its report, and mistakes in them."""

import json
import re
import sys

import pytest
import torch
from tiny_models import tiny_model

from papers_to_gpt import translate
from papers_to_gpt.settings.decoding import parse_translation
from seq2seq_scratch.tokenization import save_tokenizers, train_tokenizer

SENTENCES = ["two dogs run", "The dogs", "", "dogs in the snow"]
TERMS = "dogs\tHunde\nThe\tdie\nin the snow\tim Schnee\nsnow\tSchnee\n"


def save_model(folder, kind, target_kind):
    source = train_tokenizer(SENTENCES * 3, kind="bpe", vocab_size=300)
    target = train_tokenizer(["zwei Hunde rennen", "die Hunde im Schnee"] * 3, kind=target_kind, vocab_size=290)
    small = tiny_model(kind)
    sizes = {"vocab_size": len(source), "decoder_vocab_size": len(target), "share_vocabulary": False}
    torch.manual_seed(3)
    model = type(small)(type(small.config)(**{**small.config.to_diff_dict(), **sizes})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config.update(max_new_tokens=12, num_beams=3)
    model.save_pretrained(folder)
    save_tokenizers(folder, source, target)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {kind: save_model(folder / kind, "bahdanau", kind) for kind in ("bpe", "word")}


@pytest.fixture
def run(folders, tmp_path, monkeypatch, capsys):
    def start(*arguments, lines=SENTENCES, kind="bpe", **files):
        (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n")
        given = ["--model_name_or_path", folders[kind], "--input_file", tmp_path / "lines.txt", "--bf16", "false"]
        for name, text in files.items():
            (tmp_path / f"{name}.txt").write_text(text)
            given += [f"--{name}", tmp_path / f"{name}.txt"]
        monkeypatch.setattr(sys, "argv", list(map(str, ["translate.py", *given, *arguments])))
        translate.main()
        return capsys.readouterr()

    return start


@pytest.mark.parametrize("kind", ["bpe", "word"])
def test_prefixes_and_forbidden_words_hold_in_every_line_of_an_n_best_list(run, kind):
    words = re.compile(r"[\w\ufffd]+")  # bytes that are no character are part of a word
    forbidden = ["Hunde", *{word for word in words.findall(run(kind=kind).out) if "\ufffd" not in word}]
    lines = [f"{sentence}\t{'die Hu' if kind == 'bpe' else 'die'}" if sentence else "" for sentence in SENTENCES]
    arguments = ("--with_prefixes", "true", "--num_return_sequences", 3)
    rows = run(*arguments, lines=lines, kind=kind, forbidden_words="\n".join([*forbidden, "im Schnee"])).out
    texts = [row.split("\t")[2] for row in rows.splitlines()]
    assert len(texts) == 12 and texts.count("") == 3
    for text in filter(None, texts):
        assert text.startswith("die")
        assert not set(words.findall(text)) & set(forbidden)


def test_the_report_says_which_terms_each_line_has(run, tmp_path):
    report = tmp_path / "report.jsonl"
    arguments = ("--terminology_report", report, "--term_bias")
    without = run(*arguments, 0, terminology=TERMS)
    assert without.out == run().out
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert [[*row["met"], *row["not_met"]] for row in rows] == [
        [["dogs", "Hunde"]],
        [["The", "die"], ["dogs", "Hunde"]],
        [],
        [["dogs", "Hunde"], ["in the snow", "im Schnee"]],
    ]
    biased = run(*arguments, 20, terminology=TERMS)
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    for row, text in zip(rows, biased.out.splitlines(), strict=True):
        for name, is_met in (("met", True), ("not_met", False)):
            for _, target in row[name]:
                casing = re.IGNORECASE if target.islower() else re.NOFLAG
                assert bool(re.search(rf"\b{target}\b", text, casing)) is is_met
    count = sum(len(row["met"]) for row in rows)
    assert count >= 4 and f"Terminology: {count} of 5 terms met; all terms met in" in biased.err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"terminology": "dogs\tHunde\nsnow\n"}, r"terminology.txt, line 2: 1 tab-separated field, 'snow'. Write a"),
        ({"terminology": "\n\tHunde\n"}, r"terminology.txt, line 2: the source term is empty"),
        ({"terminology": "dogs\t \n"}, r"terminology.txt, line 1: the target term is empty"),
        ({"terminology": "a\tb\na\tc\n"}, r"line 2: the source term 'a' is also in .*terminology.txt, line 1"),
        ({"terminology": "\n"}, r"terminology is .*, which holds no entry"),
        ({"forbidden_words": "im\tSchnee\n"}, r"forbidden_words.txt, line 1: 2 tab-separated fields"),
        (
            {"forbidden_words": "hunde\n", "terminology": "dogs\tdie Hunde\n"},
            r"terminology.txt, line 1: the target term 'die Hunde' has the forbidden word 'hunde'",
        ),
        ({"forbidden_words": "die\n"}, r"lines.txt, line 2: the prefix 'die ' has the forbidden word 'die'"),
        ({"forbidden_words": "xx\n"}, r"lines.txt, line 3: the sentence is empty, but it has the prefix 'Hunde'"),
    ],
)
def test_mistakes_are_named_with_their_line_before_anything_is_translated(run, tmp_path, files, message):
    output = tmp_path / "out.txt"
    output.write_text("earlier\n")
    lines = ["two dogs\t", "dogs\tdie ", "\tHunde"]
    with pytest.raises(ValueError, match=message):
        run("--with_prefixes", "true", "--output_file", output, lines=lines, **files)
    assert output.read_text() == "earlier\n"


def test_prefixes_that_cannot_be_and_words_that_leave_nothing_are_refused(run):
    with pytest.raises(ValueError, match=r"line 2: the prefix 'die Hunde im Schnee' has \d+ tokens, but .* at most 2"):
        run("--with_prefixes", "true", "--max_new_tokens", 2, lines=["dogs", "dogs\tdie Hunde im Schnee"])
    with pytest.raises(ValueError, match=r"line 1: 3 tab-separated fields"):
        run("--with_prefixes", "true", lines=["dogs\tdie\tHunde"])
    with pytest.raises(ValueError, match=r"line 1: the model's vocabulary lacks a word of the prefix 'Katzen'"):
        run("--with_prefixes", "true", lines=["dogs\tKatzen"], kind="word")
    with pytest.raises(ValueError, match=r"forbidden_words.txt, line 1 and those that follow forbid every word"):
        run(kind="word", forbidden_words="zwei\nHunde\nrennen\ndie\nim\nSchnee\n")
    assert "lacks a word of 1 target term, such as 'Katzen'" in run(kind="word", terminology="dogs\tKatzen\n").err
    with pytest.raises(ValueError, match="term_bias and terminology_report are set, but terminology is not"):
        parse_translation(["--model_name_or_path", "a", "--term_bias", "3", "--terminology_report", "b"])

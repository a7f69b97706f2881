"""A line of scores for every line of a text."""

import io
import json
import math
import sys

import pytest
from tiny_models import tiny_model, tiny_tokenizer

from gpt1_scratch import GPT1Config, GPT1ForCausalLM
from gpt1_scratch.pretraining.scoring import score_texts
from gpt1_scratch.tokenization import train_tokenizer
from papers_to_gpt import score_text
from papers_to_gpt.gpt1 import text_scoring


@pytest.fixture
def folder(tmp_path):
    tiny_model("causal_lm").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def score(folder, monkeypatch, capsys):
    def run(*arguments, model=folder):
        monkeypatch.setattr(sys, "argv", ["score_text.py", "--model_name_or_path", str(model), *map(str, arguments)])
        score_text.main()
        output, errors = capsys.readouterr()
        return [json.loads(line) for line in output.splitlines()], errors

    return run


def test_every_line_has_a_line_of_scores_and_all_lines_a_summary(score, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(text_scoring, "LINES_AT_A_TIME", 2)
    lines = ["word4 word5", "", "word6 word7\u2028word8", "\u200b", "word9"]
    (tmp_path / "lines.txt").write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    rows, summary = score("--input_file", tmp_path / "lines.txt")
    assert [row["index"] for row in rows] == list(range(5))
    expected = score_texts(tiny_model("causal_lm").eval(), tiny_tokenizer(), lines)
    assert [row["tokens"] for row in rows] == [1, 0, 2, 0, 0]
    for row, text in zip(rows, expected, strict=True):
        if text.tokens:
            assert row["log_probability"] == pytest.approx(text.log_probability, abs=1e-4)
            assert row["perplexity"] == pytest.approx(text.perplexity, rel=1e-4)
        else:
            assert row["log_probability"] is row["perplexity"] is row["bits_per_byte"] is None
    total = sum(text.log_probability for text in expected)
    assert "5 lines. Without a score, as they have fewer than two tokens: 3." in summary
    size = sum(text.bytes for text in expected)
    assert f"bits_per_byte {-total / math.log(2) / size:.4f}  perplexity {math.exp(-total / 3):.4f}" in summary


def test_tokens_are_written_on_request_and_to_a_file(score, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"word4 word5 other\n"), encoding="utf-8"))
    assert score("--with_tokens", "true", "--output_file", tmp_path / "scores.jsonl")[0] == []
    (row,) = map(json.loads, (tmp_path / "scores.jsonl").read_text().splitlines())
    assert [token for token, _ in row["token_scores"]] == ["word5", "<unk>"]
    assert sum(value for _, value in row["token_scores"]) == pytest.approx(row["log_probability"], abs=1e-4)


def test_what_cannot_be_scored_is_named(score, tmp_path, folder):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"empty\.txt is empty"):
        score("--input_file", tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"word4\nz\xf6\n")
    (tmp_path / "scores").write_text("mine")
    with pytest.raises(ValueError, match=r"latin\.txt, line 2: byte 0xf6"):
        score("--input_file", tmp_path / "latin.txt", "--output_file", tmp_path / "scores")
    assert (tmp_path / "scores").read_text() == "mine"
    (tmp_path / "lines.txt").write_text("word4 word5")
    with pytest.raises(ValueError, match="stride is 64; the model has 64 positions"):
        score("--input_file", tmp_path / "lines.txt", "--stride", 64)
    tiny_model("bahdanau").save_pretrained(tmp_path / "translator")
    tiny_tokenizer().save_pretrained(tmp_path / "translator")
    with pytest.raises(ValueError, match="a translator. This script needs a GPT-1 that continues text.*translate.py"):
        score("--input_file", tmp_path / "lines.txt", model=tmp_path / "translator")


def test_a_line_whose_tokens_are_those_of_one_character_has_no_bits_per_byte(tmp_path, score):
    tokenizer = train_tokenizer(["ab ab ab ab ab .. ..."] * 3, merges=1)
    assert len(tokenizer.tokenize("…")) > 1
    config = GPT1Config(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    GPT1ForCausalLM(config).save_pretrained(tmp_path / "dots")
    tokenizer.save_pretrained(tmp_path / "dots")
    (tmp_path / "lines.txt").write_text("…\n", encoding="utf-8")
    (row,), summary = score("--input_file", tmp_path / "lines.txt", model=tmp_path / "dots")
    assert row["tokens"] > 0 and row["perplexity"] > 0 and row["bits_per_byte"] is None
    assert "bytes 0  perplexity" in summary

"""Log-probabilities of given translations, against one pair at a time."""

import json
import sys

import pytest
import torch
from tiny_models import TRANSLATORS, tiny_model

from papers_to_gpt import score_translation
from seq2seq_scratch.data.forced_scores import score_translations
from seq2seq_scratch.tokenization import save_tokenizers, train_tokenizer

SOURCES = ["two dogs run", "a man walks along the long street", "", "snow", "the dog runs after it", "it"]
TARGETS = ["zwei Hunde rennen", "ein Mann geht", "nichts", "Schnee", "der Hund rennt hinterher", "\u200b"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([*SOURCES, *TARGETS] * 3, kind="bpe", vocab_size=300)


@pytest.fixture(scope="module", params=TRANSLATORS)
def model(request, tokenizer):
    model, ids = tiny_model(request.param), {"vocab_size": len(tokenizer), "decoder_vocab_size": len(tokenizer)}
    config = type(model.config)(**{**model.config.to_diff_dict(), **ids})
    torch.manual_seed(0)
    return type(model)(config).eval()


@pytest.mark.parametrize("max_tokens_per_batch", [1, 20, 4096])
def test_a_pair_has_the_log_probabilities_of_its_tokens_beside_any_others(model, tokenizer, max_tokens_per_batch):
    scores = score_translations(
        model, tokenizer, tokenizer, SOURCES, TARGETS, max_tokens_per_batch=max_tokens_per_batch
    )
    assert [index for index, score in enumerate(scores) if score is None] == [2, 5]
    for source, target, score in zip(SOURCES, TARGETS, scores, strict=True):
        if score is None:
            continue
        labels = tokenizer(target, return_tensors="pt").input_ids
        with torch.no_grad():
            logits = model(tokenizer(source, return_tensors="pt").input_ids, labels=labels).logits
        expected = logits[0].double().log_softmax(-1).gather(1, labels.T)[:, 0]
        assert score.log_probabilities == pytest.approx(expected.tolist(), abs=1e-5)
        assert list(score.tokens) == tokenizer.convert_ids_to_tokens(labels[0].tolist())


def test_the_script_writes_a_line_for_every_reference(model, tokenizer, tmp_path, monkeypatch, capsys):
    model.save_pretrained(tmp_path / "model")
    save_tokenizers(tmp_path / "model", tokenizer, tokenizer)
    for side, lines in (("en", SOURCES), ("de", TARGETS)):
        (tmp_path / f"test.{side}").write_text("".join(f"{line}\n" for line in lines))
    arguments = ["--model_name_or_path", tmp_path / "model", "--test_file", tmp_path / "test"]

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["score_translation.py", *map(str, arguments), *more])
        score_translation.main()

    run("--force_decode", "true", "--with_tokens", "true")
    rows = [json.loads(line) for line in (tmp_path / "model" / "test_forced_scores.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(6))
    expected = score_translations(model, tokenizer, tokenizer, SOURCES, TARGETS)
    for row, score in zip(rows, expected, strict=True):
        if score is None:
            assert (row["log_probability"], row["perplexity"], row["token_scores"]) == (None, None, [])
        else:
            assert row["log_probability"] == pytest.approx(sum(score.log_probabilities), abs=1e-4)
            assert [token for token, _ in row["token_scores"]] == list(score.tokens)
    assert "test: 6 references, 2 without text and without score: log_probability" in capsys.readouterr().out
    assert not list((tmp_path / "model").glob("*hypotheses*"))
    with pytest.raises(ValueError, match="with_tokens is true, but force_decode is false"):
        run("--with_tokens", "true")

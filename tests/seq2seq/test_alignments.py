"""Alignments by attention, against a matrix made by hand and the weights of one pair at a time."""

import json
import sys

import numpy as np
import pytest
import torch
from tiny_models import tiny_model
from transformers import pipeline

from papers_to_gpt import translate
from seq2seq_scratch.alignments import Alignment, align, pharaoh, words_of
from seq2seq_scratch.pipeline_translation import TranslationPipeline
from seq2seq_scratch.tokenization import save_tokenizers, train_tokenizer

SOURCES = ["two dogs run", "a man walks along the street", "", "snow falls"]
TARGETS = ["zwei Hunde rennen", "ein Mann geht", "nichts", "Schnee f\u00e4llt hier"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([*SOURCES, *TARGETS] * 3, kind="bpe", vocab_size=300)


def make_model(kind, tokenizer):
    torch.manual_seed(0)
    small, sizes = tiny_model(kind), {"vocab_size": len(tokenizer), "decoder_vocab_size": len(tokenizer)}
    model = type(small)(type(small.config)(**{**small.config.to_diff_dict(), **sizes})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # attention that is not uniform
    model.generation_config.update(max_new_tokens=6)
    return model


@pytest.fixture(scope="module", params=["bahdanau", "transformer"])
def model(request, tokenizer):
    return make_model(request.param, tokenizer)


def test_pairs_of_tokens_and_words_of_a_matrix_made_by_hand():
    alignment = Alignment(
        ("\u2581the", "\u2581white", "\u2581hou", "se", ".", "</s>"),
        ("\u2581das", "\u2581wei\u00dfe", "\u2581Haus", ".", "\u2581ja"),
        np.array(
            [
                [0.7, 0.1, 0.1, 0.1, 0.0, 0.0],
                [0.1, 0.6, 0.1, 0.1, 0.1, 0.0],
                [0.0, 0.1, 0.3, 0.6, 0.0, 0.0],
                [0.0, 0.0, 0.1, 0.1, 0.8, 0.0],
                [0.1, 0.1, 0.1, 0.1, 0.1, 0.5],
            ]
        ),
    )
    assert pharaoh(alignment.token_pairs()) == "0-0 1-1 3-2 4-3"
    assert pharaoh(alignment.word_pairs()) == "0-0 1-1 2-2"
    assert pharaoh([]) == ""


def test_an_unknown_word_is_a_word_and_one_within_a_word_is_not():
    words = train_tokenizer(["a man walks (along) the street."] * 3, kind="word", vocab_size=30)
    model = make_model("bahdanau", words)
    (found,) = align(model, words, words, ["the  Zug (Bus) walks\tTaxi."], ["man Zug walks"], max_source_length=8)
    marked = ("\u2581the", "\u2581<unk>", "\u2581", "(", "<unk>", ")", "\u2581walks", "</s>")
    assert found.source_tokens == marked and words_of(found.source_tokens[:-1]) == [0, 1, 2, 2, 2, 2, 3]
    assert words_of(found.target_tokens) == [0, 1, 2]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("max_tokens_per_batch", [1, 30, 4096])
def test_weights_are_those_of_the_model_whatever_pairs_stand_beside(
    model, tokenizer, implementation, max_tokens_per_batch
):
    model.set_attn_implementation("eager")
    expected = []
    for source, target in zip(SOURCES, TARGETS, strict=True):
        labels = tokenizer(target, return_tensors="pt").input_ids
        inputs = tokenizer(source, return_tensors="pt").input_ids
        with torch.no_grad():
            layers = model(inputs, labels=labels, output_attentions=True).cross_attentions
        expected.append(layers[0][0].mean(0)[:-1].numpy())  # the first of two layers, or the only one
    if model.config.model_type == "transformer_seq2seq":
        assert len(layers) == 2
        model.set_attn_implementation(implementation)
    before = model.config._attn_implementation
    found = align(model, tokenizer, tokenizer, SOURCES, TARGETS, max_tokens_per_batch=max_tokens_per_batch)
    assert model.config._attn_implementation == before
    assert found.pop(2) is None and expected.pop(2) is not None
    for alignment, weights in zip(found, expected, strict=True):
        assert alignment.weights == pytest.approx(weights, abs=1e-5)
        assert alignment.weights.sum(axis=1) == pytest.approx(np.ones(len(weights)), abs=1e-5)
        assert alignment.weights.shape == (len(alignment.target_tokens), len(alignment.source_tokens))
        assert alignment.source_tokens[-1] == "</s>" and "</s>" not in alignment.target_tokens


def test_the_pipeline_returns_them_on_request(model, tokenizer):
    translator = pipeline("translation", model=model, tokenizer=tokenizer, pipeline_class=TranslationPipeline)
    plain = translator(SOURCES, num_beams=1)
    assert all(set(each) == {"translation_text"} for each in plain)
    found = translator(SOURCES, num_beams=1, return_alignments=True)
    texts = [each["translation_text"] for each in plain]
    for each, text, alignment in zip(found, texts, align(model, tokenizer, tokenizer, SOURCES, texts), strict=True):
        assert each["translation_text"] == text
        if alignment is None:
            assert (each["alignment"], each["alignment_weights"], each["source_tokens"]) == ("", [], [])
        else:
            assert each["alignment"] == pharaoh(alignment.word_pairs())
            assert np.array(each["alignment_weights"]) == pytest.approx(alignment.weights, abs=1e-5)
            assert each["target_tokens"] == list(alignment.target_tokens)


def test_a_model_without_attention_says_what_it_has(tokenizer):
    with pytest.raises(ValueError, match="rnn_seq2seq has no attention.*one vector for each layer.*bahdanau"):
        align(make_model("rnn_seq2seq", tokenizer), tokenizer, tokenizer, SOURCES, TARGETS)


def test_the_script_writes_a_line_of_json_for_each_sentence(model, tokenizer, tmp_path, monkeypatch, capsys):
    model.save_pretrained(tmp_path / "model")
    save_tokenizers(tmp_path / "model", tokenizer, tokenizer)
    (tmp_path / "lines.txt").write_text("\n".join(SOURCES) + "\n")

    def run(*arguments):
        files = ["--model_name_or_path", tmp_path / "model", "--input_file", tmp_path / "lines.txt", "--bf16", "false"]
        monkeypatch.setattr(sys, "argv", ["translate.py", *map(str, files), *arguments])
        translate.main()
        return capsys.readouterr().out.splitlines()

    rows = [json.loads(line) for line in run("--with_alignments", "true")]
    texts = run()
    assert [row["translation"] for row in rows] == texts
    for row, alignment in zip(rows, align(model, tokenizer, tokenizer, SOURCES, texts), strict=True):
        assert row["alignment"] == ("" if alignment is None else pharaoh(alignment.word_pairs()))
        assert row["token_alignment"] == ("" if alignment is None else pharaoh(alignment.token_pairs()))
        assert np.shape(row["weights"]) == ((0,) if alignment is None else alignment.weights.shape)
    with pytest.raises(ValueError, match="with_alignments is true.*Leave with_scores"):
        run("--with_alignments", "true", "--with_scores", "true")

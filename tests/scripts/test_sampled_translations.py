"""Translations that are drawn: their distribution, their seed, and settings that do not go together."""

import sys
from collections import Counter

import pytest
import torch
from tiny_models import tiny_model

from papers_to_gpt import translate
from papers_to_gpt.settings.decoding import parse_translation
from seq2seq_scratch.tokenization import save_tokenizers, train_tokenizer

SENTENCES = ["two dogs run", "run", "", "dogs"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = train_tokenizer([*SENTENCES, "zwei Hunde rennen"] * 3, kind="word", vocab_size=12)
    small = tiny_model("transformer")
    sizes = {"vocab_size": len(tokenizer), "decoder_vocab_size": len(tokenizer)}
    torch.manual_seed(3)
    model = type(small)(type(small.config)(**{**small.config.to_diff_dict(), **sizes})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config.update(max_new_tokens=3, num_beams=4)
    model.save_pretrained(folder := tmp_path_factory.mktemp("translator"))
    save_tokenizers(folder, tokenizer, tokenizer)
    return folder, model, tokenizer


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    def start(*arguments, lines=SENTENCES):
        (tmp_path / "lines.txt").write_text("\n".join(lines))
        files = ["--model_name_or_path", folder[0], "--input_file", tmp_path / "lines.txt", "--bf16", "false"]
        monkeypatch.setattr(sys, "argv", list(map(str, ["translate.py", *files, *arguments])))
        translate.main()
        return capsys.readouterr().out

    return start


def test_tokens_are_drawn_from_the_models_distribution(folder, run):
    _, model, tokenizer = folder
    count = 3000
    drawn = Counter(
        line.split("\t")[2]
        for line in run(
            *("--do_sample", "true", "--seed", 5, "--num_return_sequences", count, "--max_new_tokens", 1),
            lines=["two dogs run"],
        ).splitlines()
    )
    start = torch.tensor([[model.config.decoder_start_token_id]])
    with torch.no_grad():
        logits = model(tokenizer("two dogs run", return_tensors="pt").input_ids, decoder_input_ids=start).logits[0, 0]
    expected = Counter()
    for token, probability in enumerate(logits.softmax(0).tolist()):
        expected[" ".join(tokenizer.decode([token], skip_special_tokens=True).split())] += probability
    assert sum(drawn.values()) == count and len(drawn) > 3
    for text, probability in expected.items():
        assert drawn[text] / count == pytest.approx(probability, abs=0.04), text


def test_the_same_seed_gives_the_same_translations_and_a_low_temperature_those_of_the_search(run):
    sample = ("--do_sample", "true", "--num_return_sequences", 8)
    assert run(*sample, "--seed", 1) == run(*sample, "--seed", 1) != run(*sample, "--seed", 2)
    greedy = run("--num_beams", 1)
    assert run("--do_sample", "true", "--temperature", 0.0001) == greedy
    assert run("--do_sample", "true", "--top_k", 1) == greedy
    assert run("--do_sample", "true", "--top_p", 1e-6) == greedy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "2", "--seed", "1"], "temperature and seed are set, but do_sample is false"),
        (["--do_sample", "--num_beams", "4"], "do_sample is true, but num_beams belongs to a search with beams"),
        (["--do_sample", "--length_penalty", "0.5"], "do_sample is true, but length_penalty belongs to a search"),
        (["--do_sample", "--temperature", "0"], "temperature is 0.0; it must be at least 0.0001"),
        (["--do_sample", "--top_p", "1.5"], "top_p is 1.5; it must be"),
    ],
)
def test_settings_that_do_not_go_together_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_translation(["--model_name_or_path", "runs/mine", *arguments])

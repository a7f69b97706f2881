"""The length penalty that a run of translation chooses on the validation split."""

import json
import sys
from pathlib import Path

import pytest
import torch
from killed_runs import forget_the_end
from transformers import GenerationConfig

from papers_to_gpt import score_translation, train_translation
from seq2seq_scratch.data.metrics import TranslationMetric
from seq2seq_scratch.translation import load_translator, translate

PRESET = Path(__file__).parents[2] / "recipes" / "presets" / "numbers" / "bahdanau.yaml"
TINY = """--embedding_size 8 --hidden_size 12 --attention_size 8 --maxout_size 6 --vocab_size 280 --max_steps 60
    --eval_steps 60 --logging_steps 60 --learning_rate 2e-2 --optim adam --num_beams 4 --max_new_tokens 12
    --bf16 false --metric_for_best_model chrf --max_tokens_per_batch 256""".split()
CANDIDATES = (0.0, 1.0, 3.0)


@pytest.fixture(scope="module")
def pairs():
    """Returns pairs whose translations may end after every word, as by tossing a coin, so that a penalty decides.

    Those to validate and to test on, the first 24, are long.
    """
    lengths = [*range(5, 11)] * 4 + [1 + (index & -index).bit_length() for index in range(1, 129)]
    words = ["yes", "oh yes", "yes please", "well yes"]
    return [(words[index % 4], " ".join(["ja"] * length)) for index, length in enumerate(lengths)]


@pytest.fixture
def train(tmp_path, pairs, monkeypatch):
    """Runs the script in this process and returns the folder of the model."""
    for split, rows in (("train", pairs[24:]), ("validation", pairs[:12]), ("test", pairs[12:24])):
        for language, lines in zip(("en", "de"), zip(*rows, strict=True), strict=True):
            (tmp_path / f"{split}.{language}").write_text("".join(f"{line}\n" for line in lines))
    files = [f"--{split}_file={tmp_path / split}" for split in ("train", "validation", "test")]

    def start(*arguments, name="run"):
        settings = [PRESET, "--dataset_name", "none", *files, *TINY, "--output_dir", tmp_path / name, *arguments]
        monkeypatch.setattr(sys, "argv", ["train_translation.py", *map(str, settings)])
        train_translation.main()
        return tmp_path / name

    return start


def results_of(folder):
    return json.loads((folder / "all_results.json").read_text())


def test_the_penalty_with_the_best_validation_score_is_recorded_and_used(train, pairs, tmp_path, monkeypatch, capsys):
    options = ("--tune_length_penalty", "--length_penalty", 1.0, "--length_penalty_candidates", *CANDIDATES)
    folder = train(*options)
    shown = capsys.readouterr().out
    tuned = results_of(folder)["length_penalty_tuning"]

    # The same by the package alone, from the folder.
    model, *tokenizers = load_translator(str(folder))
    model.eval()

    def decode(rows, penalty):
        arguments = {"num_beams": 4, "length_penalty": penalty}
        with torch.no_grad():
            return [best.text for best, *_ in translate(model, *tokenizers, [row[0] for row in rows], **arguments)]

    references = [target for _, target in pairs[:12]]
    metric, scores = TranslationMetric("de"), {}
    for penalty in CANDIDATES:
        scores[penalty] = metric.compute(predictions=decode(pairs[:12], penalty), references=references)["chrf"]
    assert len(set(scores.values())) > 1 and scores[1.0] < max(scores.values())
    assert tuned["scores"] == {f"{penalty:g}": pytest.approx(score) for penalty, score in scores.items()}
    best = max(scores, key=scores.get)
    assert tuned["length_penalty"] == best == GenerationConfig.from_pretrained(folder).length_penalty
    assert (tuned["metric"], tuned["num_beams"], tuned["sentences"]) == ("chrf", 4, 12)
    assert f"validation with length_penalty {best:g}: chrf {scores[best]:.2f}" in shown
    assert f"length_penalty {best:g} is chosen on the validation split" in shown
    log = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    assert [line["length_penalty"] for line in log if line["kind"] == "tuning"] == [best]
    assert f"The length penalty of the search, {best:g}, was chosen among" in (folder / "README.md").read_text()

    # The test set is translated with it, by the run and by what loads the model.
    hypotheses = (folder / "test_hypotheses.txt").read_text().splitlines()
    assert hypotheses == decode(pairs[12:24], best) != decode(pairs[12:24], 1.0)
    arguments = ["--model_name_or_path", folder, "--test_file", tmp_path / "test", "--num_beams", 4, "--bf16", "false"]
    monkeypatch.setattr(sys, "argv", ["score_translation.py", *map(str, arguments)])
    score_translation.main()
    assert (folder / "test_beam4_hypotheses.txt").read_text().splitlines() == hypotheses

    # A run that was killed before its end chooses again, and records it once.
    forget_the_end(folder)
    (folder / "all_results.json").unlink()
    train(*options)
    again = results_of(folder)["length_penalty_tuning"]
    assert again | {"seconds": 0} == tuned | {"seconds": 0}
    log = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in log].count("tuning") == 1
    forget_the_end(folder)
    with pytest.raises(ValueError, match="tune_length_penalty was True, is False"):
        train(*options[1:])


def test_without_the_setting_the_penalty_is_that_of_the_settings(train):
    folder = train("--length_penalty", 1.5, "--max_steps", 2, "--eval_steps", 2)
    assert GenerationConfig.from_pretrained(folder).length_penalty == 1.5
    assert "length_penalty_tuning" not in results_of(folder)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--num_beams", 1], "num_beams is 1, and a greedy search has no length penalty. Raise num_beams"),
        (
            ["--length_penalty", 1, "--length_penalty_candidates", 1],
            "names no value besides length_penalty, 1. Name some",
        ),
        (["--length_penalty_candidates", "nan"], "length_penalty_candidates is nan; it must be a finite number"),
    ],
)
def test_a_penalty_that_cannot_be_chosen_is_refused(train, arguments, expected):
    with pytest.raises(ValueError, match=expected):
        train("--tune_length_penalty", *arguments)

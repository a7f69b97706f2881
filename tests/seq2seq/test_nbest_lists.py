"""n-best lists of other systems, chosen from by two scores, against sums by hand and one pair at a time."""

import csv
import gzip
import json
import sys
from types import SimpleNamespace

import pytest
import sacrebleu
import torch
from tiny_models import TRANSLATORS, tiny_model

from papers_to_gpt import score_translation
from papers_to_gpt.settings.decoding import parse_scoring
from papers_to_gpt.translation import decoding
from seq2seq_scratch.data.nbest_lists import Candidate, choose_candidates, read_nbest_list
from seq2seq_scratch.tokenization import save_tokenizers, train_tokenizer
from seq2seq_scratch.translation import Hypothesis

SOURCES = ["two dogs run", "snow", "", "it"]
REFERENCES = ["zwei Hunde rennen schnell", "viel Schnee liegt dort", "", "es ist da nun"]
LIST = """0 ||| zwei Hunde rennen schnell ||| LM0= -4 TM= 1 ||| -5.0 ||| 0-0 1-1
3 ||| es ist da nun ||| -1
0 |||  zwei   Hunde ||| -4.5
1 ||| viel Schnee ||| -2e0
1 ||| ||| -1.5
0 ||| zwei Hunde rennen schnell ||| other= 2 ||| -5.5
1 ||| viel Schnee liegt dort ||| -3
"""


def test_both_forms_of_lines_are_read(tmp_path):
    with gzip.open(tmp_path / "list.gz", "wt") as file:
        file.write(LIST)
    found = read_nbest_list(tmp_path / "list.gz", SOURCES)
    assert found[:3] == [
        Candidate(0, "zwei Hunde rennen schnell", -5.0),
        Candidate(3, "es ist da nun", -1.0),
        Candidate(0, "zwei Hunde", -4.5),
    ]
    assert [candidate.score for candidate in found[3:]] == [-2.0, -1.5, -5.5, -3.0]


def test_the_lists_of_our_own_script_are_read_as_it_writes_them(tmp_path):
    settings = SimpleNamespace(num_return_sequences=2, with_scores=False)
    found = [
        [Hypothesis("zwei Hunde", -1.25), Hypothesis("Hunde ||| zwei", -2.5)],
        [Hypothesis("Schnee", -0.5), Hypothesis("", -3.0)],
        [Hypothesis("", None)],
        [Hypothesis("da", -1.0)],
    ]
    with open(tmp_path / "list.tsv", "w", encoding="utf-8") as output:
        decoding.write(found, settings, output, 0)
    assert read_nbest_list(tmp_path / "list.tsv", SOURCES) == [
        Candidate(source, each.text, each.score)
        for source, hypotheses in enumerate(found)
        for each in hypotheses
        if each.score is not None
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 ||| a ||| 1\n0\ta\t1\n", 'line 2: the line is no candidate .* Write it as "id ||| candidate'),
        ("0 ||| a ||| 1\n\n", "line 2: the line is no candidate"),
        ("0 a 1\n", 'line 1: the line is no candidate .* Write it as "id ||| candidate'),
        ("0\t1\ta\n0 ||| a ||| 1\n", 'line 2: the line is no candidate .* Write it as "id", "score" and "candid'),
        ("0\tmuch\ta\n", 'line 1: the score is \'much\'; it must be a finite number. A line is "id", "score"'),
        ("0\t1\ta\n4\t1\ta\n", "line 2: the id is 4, but the sources have the ids 0 to 3"),
        ("0\t1\ta\n" + "4" * 5000 + "\t1\ta\n", "line 2: the id is 44444.*, but the sources have the ids 0 to 3"),
        ("0\t1\ta\n1\t1\ta\n2\t\t\n3\t\t\n", "list has no candidate for source 3 \\(counted from 0\\)"),
        ("0 ||| a ||| 1\n1 ||| a ||| much\n", "line 2: the score is 'much'; it must be a finite number"),
        ("0 ||| a ||| LM= 1 ||| nan\n", "line 1: the score is 'nan'"),
        ("-1 ||| a ||| 1\n", "line 1: the id is '-1'; it must be the number of the source"),
        ("1 ||| a ||| 1\n4 ||| a ||| 1\n", "line 2: the id is 4, but the sources have the ids 0 to 3"),
        ("3 ||| a ||| 1\n2 ||| a ||| 1\n", "list has no candidate for source 0 and 1 other \\("),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path, text, message):
    (tmp_path / "list").write_text(text)
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        read_nbest_list(tmp_path / "list", SOURCES)


def test_the_highest_weighted_mean_is_chosen():
    candidates = [Candidate(0, *each) for each in (("a", -1.0), ("b", -4.0), ("c", -4.0), ("", 9.0))]
    candidates.append(Candidate(2, "", -3.0))
    model_scores = [-10.0, -6.0, -6.0, None, None]
    # Means at 0.5: -5.5, -5 and -5; at 0.3: -3.7, -4.6 and -4.6. A candidate without text has no score of the model.
    for weight, expected in ((0.0, ""), (0.3, "a"), (0.5, "b"), (1.0, "b")):
        assert choose_candidates(candidates, model_scores, weight, 4) == [expected, "", "", ""]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder, models = tmp_path_factory.mktemp("rescoring"), []
    tokenizer = train_tokenizer([*SOURCES, *REFERENCES] * 3, kind="bpe", vocab_size=340)
    for seed, name in enumerate(TRANSLATORS):
        small = tiny_model(name)
        ids = {"vocab_size": len(tokenizer), "decoder_vocab_size": len(tokenizer)}
        torch.manual_seed(seed)
        model = type(small)(type(small.config)(**{**small.config.to_diff_dict(), **ids})).eval()
        model.save_pretrained(folder / name)
        save_tokenizers(folder / name, tokenizer, tokenizer)
        models.append(model)
    for side, lines in (("en", SOURCES), ("de", REFERENCES)):
        (folder / f"test.{side}").write_text("".join(f"{line}\n" for line in lines))
    (folder / "list.txt").write_text(LIST)
    return folder, models, tokenizer


def log_probability(models, tokenizer, source, target):
    """Returns the log-probability of a target by the mean of the models' probabilities, in fp64."""
    labels = tokenizer(target, return_tensors="pt").input_ids
    inputs = tokenizer(source, return_tensors="pt").input_ids
    with torch.no_grad():
        each = [model(inputs, labels=labels).logits[0].double().softmax(-1) for model in models]
    return (sum(each) / len(each)).gather(1, labels.T).log().sum().item()


@pytest.mark.parametrize("count", [1, 3])
def test_the_script_chooses_by_hand_computed_means_and_scores_the_choice(
    folders, tmp_path, monkeypatch, capsys, count
):
    folder, models, tokenizer = folders
    names = [folder / name for name in [*TRANSLATORS][:count]]
    list_arguments = ["--rescore", folder / "list.txt", "--rescore_weight", 0.5, 0.05, "--output_dir", tmp_path]

    def run(*arguments):
        arguments = ["score_translation.py", "--model_name_or_path", *names, *list_arguments, *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
        score_translation.main()
        return capsys.readouterr().out

    shown = run("--test_file", folder / "test")
    candidates = read_nbest_list(folder / "list.txt", SOURCES)
    expected = [
        log_probability(models[:count], tokenizer, SOURCES[each.source], each.text) if each.text else None
        for each in candidates
    ]
    with open(tmp_path / "test_candidates.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [(int(row["id"]), row["candidate"]) for row in rows] == [(each.source, each.text) for each in candidates]
    for row, score in zip(rows, expected, strict=True):
        assert (
            row["model_score"] == "" if score is None else float(row["model_score"]) == pytest.approx(score, abs=1e-3)
        )

    chosen = {}
    for weight in (0.0, 0.05, 0.5):
        means = [
            each.score if not weight else -1e9 if score is None else weight * score + (1 - weight) * each.score
            for each, score in zip(candidates, expected, strict=True)
        ]
        chosen[weight] = [
            max((mean, each.text) for mean, each in zip(means, candidates, strict=True) if each.source == index)[1]
            if index != 2
            else ""
            for index in range(4)
        ]
        stem = tmp_path / f"test_rescore{weight:g}"
        assert stem.with_name(f"{stem.name}_hypotheses.txt").read_text().split("\n")[:4] == chosen[weight]
        scores = json.loads(stem.with_name(f"{stem.name}_scores.json").read_text())
        assert scores["sacrebleu"] == pytest.approx(sacrebleu.corpus_bleu(chosen[weight], [REFERENCES]).score)
        assert (scores["rescore_weight"], scores["candidates"]) == (weight, 7)
        label = f"rescore_weight {weight:g}" if weight else "the given scores alone"
        line = next(line for line in shown.splitlines() if line.startswith(f"test, {label}: "))
        assert f"sacrebleu {scores['sacrebleu']:.2f}" in line
    assert chosen[0.0] != chosen[0.05]

    alone = json.loads((tmp_path / "test_rescore0.5_scores.json").read_text())["exact_match"]
    (folder / "test.de2").write_text("".join(f"{line}\n" for line in chosen[0.5]))
    run("--test_file", folder / "test", "--reference_columns", "de2")
    assert json.loads((tmp_path / "test_rescore0.5_scores.json").read_text())["exact_match"] > alone

    for path in tmp_path.glob("*_scores.json"):
        path.unlink()
    shown = run("--source_file", folder / "test.en")  # no references
    assert (tmp_path / "test_rescore0.5_hypotheses.txt").read_text().split("\n")[:4] == chosen[0.5]
    assert not list(tmp_path.glob("*_scores.json")) and "sacrebleu" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rescore", "list", "--force_decode"], "rescore and force_decode are both set"),
        (["--source_file", "a"], "source_file is set, but rescore is not"),
        (["--rescore_weight", "0.5"], "rescore_weight is set, but rescore is not: there is no list to choose from"),
        (
            ["--rescore", "list", "--source_file", "a", "--test_file", "b"],
            "source_file names the sources, and so does",
        ),
        (["--rescore", "list", "--split", "a", "b"], "rescore is one n-best list, but split names 2 splits"),
        (
            ["--rescore", "list", "--test_file", "a", "b"],
            "rescore is one n-best list, but test_file names 2 test sets",
        ),
        (["--rescore", "list", "--rescore_weight", "1.5"], "rescore_weight is 1.5; it must be from 0 to 1"),
    ],
)
def test_settings_that_do_not_go_together_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_scoring(["--model_name_or_path", "runs/mine", *arguments])

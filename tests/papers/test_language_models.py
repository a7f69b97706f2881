"""Experiments on GPT-1: their checkpoints, their gains by the auxiliary loss, and masked beside next tokens."""

import pytest

from papers_to_gpt.papers import devlin2018, radford2018
from papers_to_gpt.papers.devlin2018 import updates_in_equal_time
from papers_to_gpt.papers.language_models import LSTM, MASKED, TRANSFORMER, planned_updates, pretrained
from papers_to_gpt.papers.registry import EXPERIMENTS
from papers_to_gpt.papers.workbench import Workbench
from papers_to_gpt.reproduce import parse
from papers_to_gpt.settings.pretraining import parse as parse_pretraining
from papers_to_gpt.settings.training import TrainingSettings

NOVELS = ["--scale", "novels", "--train_file", "t.txt", "--validation_file", "v.txt"]


def bench_of(name, folder, *arguments):
    (settings,) = parse(["run", name, "--output_dir", str(folder), *arguments])
    return Workbench(settings, name)


@pytest.mark.parametrize("arguments", [[], NOVELS])
@pytest.mark.parametrize("kind", [TRANSFORMER, LSTM])
def test_a_pretraining_keeps_six_checkpoints_of_which_the_last_is_that_of_the_last_update(kind, arguments, tmp_path):
    bench = bench_of("zero_shot", tmp_path, *arguments)
    run = pretrained(bench, kind)
    parsed = parse_pretraining([*run.arguments(), "--output_dir", "unused"])
    (training,) = (part for part in parsed if isinstance(part, TrainingSettings))
    assert training.max_steps == planned_updates(bench, kind) and training.save_total_limit == 0
    updates = range(1, training.max_steps + 1)
    saved = [update for update in updates if update % training.save_steps == 0 or update == training.max_steps]
    assert len(saved) == 6 and saved[-1] == training.max_steps
    assert max(abs(each - training.max_steps * part / 6) for part, each in enumerate(saved, 1)) < 5


def tell_scores(monkeypatch, module, scores_of):
    """Replaces the runs of an experiment: they are not made, and have the scores that a function of them says."""
    monkeypatch.setattr(Workbench, "make", lambda bench, *runs, **options: [bench.path(run) for run in runs])
    monkeypatch.setattr(module, "task_scores", lambda bench, run: scores_of(run))
    monkeypatch.setattr(module, "what_is_scored", lambda bench, *runs, **options: "")


def test_the_gain_by_the_auxiliary_loss_has_one_sign_in_both_experiments(tmp_path, monkeypatch):
    def scores_of(run):
        gain = 0.0 if run.settings.get("auxiliary_loss_weight") == 0.0 else 2.5
        return {"stories_acceptability": [70 + gain], "stories_sentiment": [60 - gain]}

    tell_scores(monkeypatch, radford2018, scores_of)
    table_5 = EXPERIMENTS["table_5"].measure(bench_of("table_5", tmp_path))
    assert "the score with it minus that without: acceptability 2.5, sentiment -2.5." in table_5.notes[0]
    by_size = EXPERIMENTS["auxiliary_loss"].measure(bench_of("auxiliary_loss", tmp_path))
    assert [row[-3:] for row in by_size.table.rows] == [(72.5, 70.0, 2.5)] * 3


@pytest.mark.parametrize(
    ("middle", "last", "holds"),
    [([72.0, 73.0], [75.0, 76.0], True), ([72.0, 73.0], [69.0, 71.9], None), ([80.0, 81.0], [74.0, 75.0], False)],
)
def test_a_block_that_lowers_the_score_with_some_seeds_leaves_the_transferred_layers_undecided(
    middle, last, holds, tmp_path, monkeypatch
):
    scores = {0: [60.0, 60.5], 2: middle, None: last}
    tell_scores(
        monkeypatch, radford2018, lambda run: {"acceptability": scores[run.settings.get("transferred_layers")]}
    )
    monkeypatch.setattr(radford2018, "config_of", lambda model, setting: type("Config", (), {"num_hidden_layers": 4}))
    bench = bench_of("transferred_layers", tmp_path, "--seeds", "1", "2")
    monkeypatch.setattr(bench.settings, "layers", [0, 2])
    finding = EXPERIMENTS["transferred_layers"].measure(bench)
    assert finding.verdict.holds is holds
    assert [row[0] for row in finding.table.rows] == [0, 2, 4]


@pytest.mark.parametrize(
    ("seconds", "updates"), [((60.0, 60.0), 1500), ((60.0, 52.0), 1750), ((60.0, 61.0), 1500), ((0.1, 90.0), 50)]
)
def test_the_updates_of_an_equal_time_are_in_proportion_and_rounded(seconds, updates):
    assert updates_in_equal_time(1500, *seconds) == updates


@pytest.mark.parametrize(
    ("as_long", "said"),
    [
        (80.0, "At equal time (3,000 updates of masked tokens), the claim holds: Average score: 80.0 with masked"),
        (40.0, "At equal time (3,000 updates of masked tokens), the claim does not hold: Average score: 40.0"),
    ],
)
def test_masked_tokens_are_compared_at_equal_tokens_and_at_equal_time(as_long, said, tmp_path, monkeypatch):
    bench = bench_of("both_directions", tmp_path)
    folders = {}  # of the pre-trained models
    for kind, run in {
        "next": pretrained(bench, TRANSFORMER),
        "masked": pretrained(bench, MASKED),
        "long": pretrained(bench, MASKED, max_steps=3000),
    }.items():
        folders[bench.path(run)] = kind
    results = {"next": (1500, 120.0), "masked": (1500, 59.8), "long": (3000, 120.3)}
    scores = {"next": 60.0, "masked": 50.0, "long": as_long}

    def results_of(bench, run):
        return dict(zip(("train_updates", "train_seconds"), results[folders[bench.path(run)]], strict=True))

    def scores_of(run):
        kind = folders[run.settings["model_name_or_path"]]
        assert run.settings["auxiliary_loss_weight"] == 0.0
        return {f"stories_{run.preset.split('/')[1]}": [scores[kind]]}

    tell_scores(monkeypatch, devlin2018, scores_of)
    monkeypatch.setattr(Workbench, "results", results_of)
    monkeypatch.setattr(devlin2018, "count_weights", lambda folder: 1234567)
    finding = EXPERIMENTS["both_directions"].measure(bench)
    assert finding.table.columns[-3:] == ("weights", "pre-training, updates", "pre-training, seconds")
    assert [row[1] for row in finding.table.rows] == [60.0, 50.0, as_long]
    assert [row[-3:] for row in finding.table.rows] == [("1,234,567", *values) for values in results.values()]
    assert [list(series.y) for series in finding.charts[0].series] == [[60.0] * 3, [50.0] * 3, [as_long] * 3]
    # The verdict is that of equal tokens.
    assert finding.verdict.holds is False and said in finding.verdict.reason
    assert finding.verdict.reason.startswith("At equal tokens: Average score: 50.0 with masked tokens, 60.0 with next")


def test_a_masked_model_that_is_as_fast_is_trained_once(tmp_path):
    bench = bench_of("both_directions", tmp_path)
    assert pretrained(bench, MASKED, max_steps=planned_updates(bench, MASKED)).name == pretrained(bench, MASKED).name


@pytest.mark.parametrize("arguments", [[], NOVELS])
def test_the_masked_model_of_an_equal_time_differs_in_its_updates_alone(arguments, tmp_path):
    bench = bench_of("both_directions", tmp_path, *arguments)
    found = []
    for changes in ({}, {"max_steps": 1750}):
        parsed = parse_pretraining([*pretrained(bench, MASKED, **changes).arguments(), "--output_dir", "unused"])
        (training,) = (part for part in parsed if isinstance(part, TrainingSettings))
        found.append(vars(training).copy())
    assert [each["objective"] for each in found] == ["masked", "masked"] and found[1]["max_steps"] == 1750
    assert {name for name in found[0] if found[0][name] != found[1][name]} <= {"max_steps", "expected"}

"""The end of a run beside the number of its preset: what is compared, what is said, and what is not compared."""

import dataclasses
import json
import math

import pytest

from papers_to_gpt.engine.expectations import Outcome, compare_with_expected, describe, expected_range, say_expected
from papers_to_gpt.engine.output_folder import RunStart
from papers_to_gpt.settings.expected import Expected, ExpectedNumber
from papers_to_gpt.settings.training import TrainingSettings

NUMBER = ExpectedNumber(
    metric="test_exact_match", value=99.9, tolerance=0.9, seeds=1, hardware="2 cores", minutes=1, data="12 rows"
)
DONE = {"train_updates": 400, "train_planned_updates": 400}


def start(folder, *numbers, conflicts=None, **changes):
    expected = Expected("numbers/mine", list(numbers), conflicts or [[] for _ in numbers])
    training = TrainingSettings(output_dir=str(folder), max_steps=400, expected=expected)
    return dataclasses.replace(RunStart(folder, training, 1, {}), **changes)


def outcome(scores, *runs, data="12 rows", task=None):
    runs = [DONE | run for run in runs or [scores]]
    return Outcome(scores, runs, lambda: data, task)


def compare(begin, *outcomes, model=None):
    return compare_with_expected(begin, outcomes, model)["expected"]["comparisons"]


@pytest.mark.parametrize(
    ("score", "verdict"),
    [(99.0, "as expected"), (99.9, "as expected"), (100.0, "as expected"), (98.99, "not as expected")],
)
def test_a_score_is_as_expected_within_the_tolerance_and_what_is_possible(tmp_path, score, verdict):
    (found,) = compare(start(tmp_path, NUMBER), outcome({"test_exact_match": score}))
    assert found["verdict"] == verdict and (found["lowest"], found["highest"]) == (99.0, 100.0)
    assert describe(found).startswith(f"Expected test_exact_match 99 to 100, got {score:.4g}: {verdict}.")


def test_a_score_that_is_too_low_names_three_things_to_check_and_a_known_cause_first(tmp_path):
    scores = {"test_exact_match": 5.0, "train_skipped_updates": 7}
    (found,) = compare(start(tmp_path, NUMBER), outcome(scores))
    assert len(found["check"]) == 3 and found["check"][0].startswith("the 7 updates that were skipped")
    text = describe(found)
    assert "Check first: 1) the 7 updates" in text and "3) " in text and "4) " not in text
    assert "another seed (--seed 43): the number comes from one seed" in text
    assert str(tmp_path) not in json.dumps(found)  # all_results.json is shared
    (found,) = compare(start(tmp_path, NUMBER), outcome({"test_exact_match": math.nan}))
    assert found["verdict"] == "not as expected"


@pytest.mark.parametrize(
    ("metric", "value", "tolerance", "expected", "worse", "better"),
    [
        ("eval_bits_per_byte", 0.2, 0.02, (0.18, 0.22), 0.23, 0.17),
        ("eval_loss", 0.01, 0.02, (0.0, 0.03), 0.04, None),
        ("test_accuracy", 0.99, 0.02, (0.97, 1.0), 0.9, None),
        ("eval_matthews_correlation", 0.01, 0.02, (-0.01, 0.03), -0.1, 0.5),
        ("test_sacrebleu", 40.8, 0.5, (40.3, 41.3), 40.0, 41.4),
    ],
)
def test_each_kind_of_score_has_its_direction_and_its_limits(
    tmp_path, metric, value, tolerance, expected, worse, better
):
    number = ExpectedNumber(metric=metric, value=value, tolerance=tolerance, hardware="a core")
    assert expected_range(number) == pytest.approx(expected)
    verdicts = [compare(start(tmp_path, number), outcome({metric: score}))[0] for score in (worse, better or value)]
    assert [found["verdict"] for found in verdicts] == [
        "not as expected",
        "better than expected" if better else "as expected",
    ]
    if better:
        assert "no row that it is scored on is among the training rows" in describe(verdicts[1])


def test_without_a_preset_nothing_is_compared_and_without_a_number_it_says_so(tmp_path):
    training = TrainingSettings(output_dir=str(tmp_path), max_steps=1)
    assert compare_with_expected(RunStart(tmp_path, training, 1, {}), [outcome({})]) == {}
    said = []
    results = compare_with_expected(start(tmp_path), [outcome({})])
    say_expected(results, said.append)
    assert said == ["This preset has no expected number."]
    assert results["expected"]["comparisons"][0]["verdict"] == "not compared"
    say_expected({}, said.append)
    assert len(said) == 1


@pytest.mark.parametrize(
    ("changes", "run", "reason"),
    [
        (
            {"conflicts": [["max_steps is 2, not 400"]]},
            {},
            "the number is for other settings: max_steps is 2, not 400",
        ),
        ({"changes": ("dropout was 0, is 1.",)}, {}, "the run was resumed with changes: dropout was 0, is 1"),
        (
            {"batches_per_update": 2},
            {},
            "an update of this run read 2 batches, on several processes, and the preset's 1",
        ),
        ({}, {"train_updates": 300}, "the run ended after 300 of 400 updates"),
    ],
)
def test_a_run_that_is_not_the_presets_is_not_compared(tmp_path, changes, run, reason):
    scores = {"test_exact_match": 99.9}
    (found,) = compare(start(tmp_path, NUMBER, **changes), outcome(scores, scores | run))
    assert (found["verdict"], found["reason"], found["got"]) == ("not compared", reason, 99.9)
    assert describe(found) == f"Not compared with the expected test_exact_match 99 to 100: {reason}."


def test_other_data_and_a_missing_score_are_not_compared(tmp_path):
    (found,) = compare(start(tmp_path, NUMBER), outcome({"test_exact_match": 99.9}, data="13 rows"))
    assert found["reason"] == "the number is for other data: 12 rows, not 13 rows"
    (found,) = compare(start(tmp_path, NUMBER), outcome({"test_chrf": 1.0}))
    assert found["reason"] == "the run has no score test_exact_match"


def test_a_median_needs_a_series_and_names_the_command_that_makes_one(tmp_path):
    number = dataclasses.replace(NUMBER, seeds=3, standard_deviation=0.3, statistic="median")
    scores = {"test_exact_match": 99.9}
    (found,) = compare(start(tmp_path, number), outcome(scores))
    assert found["reason"] == "the run has one seed, and the number is the median of 3; --seeds 1 2 3 makes them"
    seeds = [{"test_exact_match": score} for score in (97.0, 5.0, 99.0)]
    (found,) = compare(start(tmp_path, number), outcome({"test_exact_match": 97.0}, *seeds))
    assert found["check"][0] == "whether a seed failed to learn: the seeds have 97, 5, 99"


def test_each_task_has_its_own_number(tmp_path):
    numbers = [dataclasses.replace(NUMBER, task=task, value=value) for task, value in (("a", 50), ("b", 90))]
    outcomes = [outcome({"test_exact_match": 50.0}, task=task) for task in "abc"]
    a, b, c = compare(start(tmp_path, *numbers), *outcomes)
    assert (a["task"], a["verdict"], b["task"], b["verdict"]) == ("a", "as expected", "b", "not as expected")
    assert describe(b).startswith("Expected b test_exact_match 89.1 to 90.9, got 50: not as expected.")
    assert describe(c) == "This preset has no expected number for the task c."


def test_of_several_numbers_the_one_for_the_settings_of_the_run_counts(tmp_path):
    other = dataclasses.replace(NUMBER, value=50, arguments="--max_steps 100")
    begin = start(tmp_path, other, NUMBER, conflicts=[["max_steps is 400, not 100"], []])
    (found,) = compare(begin, outcome({"test_exact_match": 99.9}))
    assert found["verdict"] == "as expected" and found["lowest"] == 99.0


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        ("60 rows, hash 0a", "as expected"),
        ("60 rows", "as expected"),
        ("60 rows, hash 0b", "not compared"),
        ("6 rows", "not compared"),
    ],
)
def test_a_number_may_be_for_any_data_with_so_many_rows(tmp_path, data, verdict):
    number = dataclasses.replace(NUMBER, data=data)
    came = dataclasses.replace(outcome({"test_exact_match": 99.9}), data=lambda: "60 rows, hash 0a")
    (found,) = compare(start(tmp_path, number), came)
    assert found["verdict"] == verdict


@pytest.mark.parametrize(
    ("entry", "verdict"),
    [
        ({"preset": "stories/mini", "comparisons": [{"verdict": "not as expected"}]}, "as expected"),
        ({"preset": "stories/mini", "comparisons": [{"verdict": "not compared"}]}, "not compared"),
        ({"preset": "stories/other", "comparisons": [{"verdict": "as expected"}]}, "not compared"),
        (["damaged"], "not compared"),
        (None, "not compared"),
    ],
)
def test_a_number_is_for_the_pre_trained_model_of_one_preset(tmp_path, entry, verdict):
    (tmp_path / "all_results.json").write_text(json.dumps({} if entry is None else {"expected": entry}))
    number = dataclasses.replace(NUMBER, starts_from="stories/mini")
    (found,) = compare(start(tmp_path, number), outcome({"test_exact_match": 99.9}), model=str(tmp_path))
    assert found["verdict"] == verdict
    if verdict == "not compared":
        assert "a model that the preset stories/mini has trained to its end" in found["reason"]

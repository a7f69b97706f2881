"""Scores of tasks against formulas worked out by hand and against other code paths of scipy and numpy."""

import math
import socket
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from gpt1_scratch.finetuning.metrics import (
    TaskMetric,
    confusion_matrix,
    format_confusion_matrix,
    scores_of_labels,
    top_confusions,
)
from gpt1_scratch.finetuning.reports import confusions, describe_run
from gpt1_scratch.finetuning.tasks import Task

# true positives 4, false negatives 2, false positives 1, true negatives 3
REFERENCES = [1] * 6 + [0] * 4
PREDICTIONS = [1, 1, 1, 1, 0, 0, 1, 0, 0, 0]


def compute(*names, predictions=PREDICTIONS, references=REFERENCES):
    return TaskMetric(names).compute(predictions=predictions, references=references)


def test_scores_of_two_classes_are_those_of_their_formulas():
    scores = compute("accuracy", "f1", "f1_macro", "matthews_correlation")
    assert scores["accuracy"] == pytest.approx(7 / 10)
    assert scores["f1"] == pytest.approx(2 * 4 / (2 * 4 + 1 + 2))
    assert scores["f1_macro"] == pytest.approx((8 / 11 + 2 * 3 / (2 * 3 + 2 + 1)) / 2)
    assert scores["matthews_correlation"] == pytest.approx((4 * 3 - 1 * 2) / math.sqrt(5 * 6 * 4 * 5))


def test_matthews_of_two_classes_is_the_correlation_of_the_numbers():
    generator = np.random.default_rng(0)
    references, predictions = generator.integers(0, 2, size=(2, 200))
    score = compute("matthews_correlation", predictions=predictions, references=references)["matthews_correlation"]
    assert score == pytest.approx(np.corrcoef(references, predictions)[0, 1])


def test_correlations_are_those_of_numpy_on_values_and_on_ranks():
    generator = np.random.default_rng(1)
    references = np.round(generator.uniform(0, 5, size=300), 1)  # with ties, as in STS-B
    predictions = references + generator.normal(size=300)
    scores = compute("pearson", "spearmanr", predictions=predictions, references=references)
    assert scores["pearson"] == pytest.approx(np.corrcoef(references, predictions)[0, 1])
    ranks = stats.rankdata(references), stats.rankdata(predictions)
    assert scores["spearmanr"] == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_a_model_that_says_one_thing_scores_nothing_and_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compute("matthews_correlation", "f1", predictions=[0] * 10) == {"matthews_correlation": 0.0, "f1": 0.0}
        constant = compute("pearson", "spearmanr", predictions=[2.5] * 3, references=[1.0, 2.0, 3.0])
    assert constant == {"pearson": 0.0, "spearmanr": 0.0}


def test_batches_add_up_and_tensors_are_taken():
    metric = TaskMetric(("accuracy", "f1"))
    for part in (slice(0, 3), slice(3, 10)):
        metric.add_batch(predictions=torch.tensor(PREDICTIONS[part]), references=np.array(REFERENCES[part]))
    assert metric.compute() == compute("accuracy", "f1")


def test_f1_of_several_labels_for_an_example_is_counted_over_pairs_or_averaged_over_labels():
    references = [[1, 0, 1], [0, 0, 1], [1, 0, 0], [0, 0, 0]]
    predictions = [[1, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    scores = TaskMetric(("f1_micro", "f1_macro", "accuracy"), is_multi_label=True).compute(
        predictions=predictions, references=references
    )
    # Right, wrong and missing pairs: 2, 1 and 2. By label: 1, 0, 1; 0, 1, 0; 1, 0, 1.
    assert scores == pytest.approx({"f1_micro": 4 / (4 + 1 + 2), "f1_macro": (2 / 3 + 0 + 2 / 3) / 3, "accuracy": 0.5})
    label_scores = scores_of_labels(np.array(references), np.array(predictions), ["a", "b", "c"])
    assert label_scores[0] == pytest.approx({"label": "a", "precision": 1, "recall": 0.5, "f1": 2 / 3, "examples": 2})


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("acuracy",), "there are accuracy"),
        ((), "there are accuracy"),
        (("accuracy", "pearson"), "some are scores of classes"),
    ],
)
def test_scores_that_do_not_exist_or_go_together_are_refused(names, expected):
    with pytest.raises(ValueError, match=expected):
        TaskMetric(names)


def test_nothing_to_score_and_values_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="no predictions"):
        compute("accuracy", predictions=[], references=[])
    with pytest.raises(ValueError, match="The reference at 1 is not a finite number"):
        compute("pearson", predictions=[1.0, 2.0], references=[1.0, float("nan")])


def test_the_confusion_matrix_counts_true_classes_down_and_predicted_across():
    matrix = confusion_matrix([0, 0, 2, 2, 2], [0, 2, 2, 2, 0], classes=3)
    assert matrix == [[1, 0, 1], [0, 0, 0], [1, 0, 2]]
    lines = format_confusion_matrix(matrix, ["no", "maybe", "yes"]).splitlines()
    assert lines[0].split() == ["true", "\\", "predicted", "no", "maybe", "yes"]
    assert [line.split() for line in lines[1:]] == [
        ["no", "1", "0", "1"],
        ["maybe", "0", "0", "0"],
        ["yes", "1", "0", "2"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_scoring_needs_no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a connection is opened")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert compute("accuracy", predictions=[0, 1, 1], references=[0, 1, 0])["accuracy"] == pytest.approx(2 / 3)


def test_the_top_confusions_are_the_largest_entries_beside_the_diagonal():
    generator = np.random.default_rng(0)
    references, predictions = generator.integers(0, 6, size=(2, 300))
    matrix = np.array(confusion_matrix(references, predictions, classes=6))
    np.fill_diagonal(matrix, 0)
    expected = [
        (*np.unravel_index(index, matrix.shape), matrix.flat[index]) for index in np.argsort(-matrix, None, "stable")
    ]
    assert top_confusions(references, predictions, count=7) == expected[:7]
    assert top_confusions([0, 1], [0, 1]) == []


@pytest.mark.parametrize(("classes", "name"), [(20, "confusion_matrix"), (21, "top_confusions")])
def test_of_many_classes_only_the_most_frequent_confusions_are_reported(classes, name):
    task = Task(
        "own", "classification", ("text",), tuple(f"class_{number}" for number in range(classes)), ("accuracy",)
    )
    labels = np.arange(classes).repeat(3)
    logits = np.eye(classes)[(labels + 1) % classes]
    logits[0] = np.eye(classes)[0]  # of class 0 one is right
    mistakes = confusions(task, logits, labels)
    assert list(mistakes) == [name]
    if name == "top_confusions":
        assert len(mistakes[name]) == 10
        assert mistakes[name][0] == {"label": "class_1", "predicted": "class_2", "examples": 3}
        lines = describe_run(task, {f"eval_{name}": mistakes[name]}).splitlines()
        assert lines[:2] == ["eval_top_confusions", "3 x class_1 predicted as class_2"] and len(lines) == 11

"""Scores GLUE-style tasks without a network: an `evaluate.Metric` built on scikit-learn and scipy.

All scores are fractions, as in `evaluate`; papers and leaderboards multiply them by 100.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics

REGRESSION_METRICS = ("pearson", "spearmanr")


def _f1(references: np.ndarray, predictions: np.ndarray) -> float:
    return sklearn_metrics.f1_score(references, predictions, pos_label=1, average="binary", zero_division=0.0)


def _f1_macro(references: np.ndarray, predictions: np.ndarray) -> float:
    return sklearn_metrics.f1_score(references, predictions, average="macro", zero_division=0.0)


def _f1_micro(references: np.ndarray, predictions: np.ndarray) -> float:
    return sklearn_metrics.f1_score(references, predictions, average="micro", zero_division=0.0)


def _correlation(coefficient: Callable) -> Callable[[np.ndarray, np.ndarray], float]:
    def score(references: np.ndarray, predictions: np.ndarray) -> float:
        # The correlation with a constant is undefined. A model that always predicts the same gets 0, which, unlike
        # nan, can be compared with the score of another checkpoint.
        if np.ptp(references) == 0 or np.ptp(predictions) == 0:
            return 0.0
        return coefficient(references, predictions).statistic

    return score


SCORES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": sklearn_metrics.accuracy_score,
    "matthews_correlation": sklearn_metrics.matthews_corrcoef,
    "f1": _f1,
    "f1_macro": _f1_macro,
    "f1_micro": _f1_micro,
    "pearson": _correlation(stats.pearsonr),
    "spearmanr": _correlation(stats.spearmanr),
}


class TaskMetric(evaluate.Metric):
    """Computes the scores of one task, with `compute`, or with `add_batch` and then `compute`.

    - `accuracy`;
    - `matthews_correlation`: 0 if all predictions or all references are of one class;
    - `f1`: the F1 score of class 1, as in GLUE; `f1_macro`: the mean of the F1 scores of all classes; `f1_micro`: the
      F1 score of the pairs of an example and a class, which with one class for each example is the accuracy;
    - `pearson` and `spearmanr`, for numbers: 0 if all predictions or all references are equal.

    Args:
        names: the names of the scores to compute.
        is_multi_label: True if predictions and references are a list of 0 and 1 for each example, whether each class
            applies. `accuracy` is then the share of examples with all of them right.
        arguments: arguments of `evaluate.Metric`. Unlike there, inputs are kept in memory by default.

    Raises:
        ValueError: if a name is unknown, or scores of classes and of numbers are mixed; in `compute`, if there are no
            predictions, or a prediction or reference is not a finite number.
    """

    def __init__(self, names: Sequence[str], is_multi_label: bool = False, **arguments):
        unknown = [name for name in names if name not in SCORES]
        if unknown or not names:
            raise ValueError(f"The scores {list(names)} are asked for; there are {', '.join(SCORES)}.")
        self.names, self.is_multi_label = tuple(names), is_multi_label
        self.of_numbers = names[0] in REGRESSION_METRICS
        if any((name in REGRESSION_METRICS) != self.of_numbers for name in names):
            raise ValueError(f"{', '.join(names)}: some are scores of classes and some of numbers.")
        super().__init__(**{"keep_in_memory": arguments.get("num_process", 1) == 1, **arguments})

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("float64" if self.of_numbers else "int64")
        value = datasets.List(value) if self.is_multi_label else value
        return evaluate.MetricInfo(
            description="Scores of GLUE-style tasks.",
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        predictions, references = np.asarray(predictions), np.asarray(references)
        if len(predictions) == 0:
            raise ValueError("There are no predictions to score.")
        for name, values in (("prediction", predictions), ("reference", references)):
            if not np.isfinite(values).all():
                raise ValueError(f"The {name} at {np.flatnonzero(~np.isfinite(values))[0]} is not a finite number.")
        return {name: float(SCORES[name](references, predictions)) for name in self.names}


def scores_of_labels(references: np.ndarray, predictions: np.ndarray, names: Sequence[str]) -> list[dict[str, object]]:
    """Returns precision, recall and F1 score of each label, and the number of examples that it applies to.

    Args:
        references, predictions: (N, L) whether each label applies.
        names: the names of the labels.
    """
    columns = sklearn_metrics.precision_recall_fscore_support(references, predictions, average=None, zero_division=0.0)
    return [
        {"label": name, "precision": float(p), "recall": float(r), "f1": float(f1), "examples": int(count)}
        for name, p, r, f1, count in zip(names, *columns, strict=True)
    ]


def confusion_matrix(references: Sequence[int], predictions: Sequence[int], classes: int) -> list[list[int]]:
    """Returns the number of examples for each true class (rows) and each predicted class (columns)."""
    return sklearn_metrics.confusion_matrix(references, predictions, labels=range(classes)).tolist()


def top_confusions(
    references: Sequence[int], predictions: Sequence[int], count: int = 10
) -> list[tuple[int, int, int]]:
    """Returns the most frequent mistakes, for tasks with too many classes for a readable matrix.

    Args:
        references, predictions: the true and the predicted class of each example.
        count: maximum number of mistakes to return.

    Returns:
        Triples of true class, predicted class and number of examples, the most frequent first. Equally
        frequent mistakes are sorted by class.
    """
    pairs = zip(np.asarray(references).tolist(), np.asarray(predictions).tolist(), strict=True)
    counts = Counter((true, predicted) for true, predicted in pairs if true != predicted)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(true, predicted, examples) for (true, predicted), examples in ranked[:count]]


def format_confusion_matrix(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Formats the matrix as a table, with true classes in rows and predicted classes in columns."""
    rows = [
        ["true \\ predicted", *labels],
        *([label, *map(str, row)] for label, row in zip(labels, matrix, strict=True)),
    ]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )

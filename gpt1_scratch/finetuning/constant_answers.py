"""Tells a run that has learned nothing: its score is no better than that of always giving the same answer.

Fine-tuning sometimes ends in such an answer, more often from few rows. The median of several seeds hides it, so tables
count these runs.
"""

import math
from collections import Counter

import numpy as np

from .metrics import TaskMetric
from .tasks import Task

# Of these scores, that of a constant answer is 0, and chance gives a little more.
CORRELATIONS = ("matthews_correlation", "pearson", "spearmanr")

RULE = (
    "A run failed to learn if its first score, on the rows that chose its checkpoint, is not above that of always "
    "giving the most frequent answer of train; a correlation, if it is not above 2 / sqrt(rows), which chance reaches."
)


def constant_score(task: Task, train_labels: np.ndarray, labels: np.ndarray) -> float:
    """Returns the first score of a task that the most frequent answer in training gets on other rows.

    Args:
        task: the task.
        train_labels: labels of the training rows, as in `TaskExamples`.
        labels: labels of the N rows to score.

    Returns:
        The score. For a correlation, of which a constant gets 0, it is 2 / sqrt(N): without any relation, the
        correlation has a standard deviation of about 1 / sqrt(N), and is above this in 2 or 3 of 100 cases.
    """
    metric = task.metrics[0]
    if metric in CORRELATIONS:
        return 2 / math.sqrt(len(labels))
    # Rows of several labels count as one answer.
    rows = [tuple(row) if task.is_multi_label else row for row in train_labels.astype(np.int64).tolist()]
    ((answer, _),) = Counter(rows).most_common(1)
    predictions = np.array([answer] * len(labels))
    scores = TaskMetric((metric,), task.is_multi_label).compute(
        predictions=predictions, references=labels.astype(np.int64)
    )
    return scores[metric]

"""Weights of classes in the loss, for tasks in which some classes are rare."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from ..data.text_lines import numbered_lines, without_line_end
from .inference import parse_number
from .tasks import Task, name_classes

# In place of a file, it asks for weights that are inverse to the frequencies of the classes.
BALANCED = "balanced"


def find_class_weights(setting: str, task: Task, labels: Sequence[int] | Sequence[tuple[int, ...]]) -> list[float]:
    """Returns the weight of each class in the loss, in the order of `task.labels`.

    A weight multiplies the loss of the examples of its class. If several labels may apply to an example, it multiplies
    the loss of a label only where the label applies, as `pos_weight` of PyTorch does.

    Args:
        setting: `balanced`, or a file with `label TAB weight` in each line, every class once. The balanced weight of a
            class is that of scikit-learn, n_samples / (n_classes * count). With several labels for an example it is
            the number of examples without the label for each example with it.
        task: names the classes.
        labels: the labels of the training split.

    Raises:
        ValueError: if the task has no classes; the file is missing or malformed, or names an unknown class, a class
            twice or not all of them; or a balanced weight would be 0 or infinite.
    """
    if task.is_regression or task.kind == "multiple_choice":
        what = "predicts a number" if task.is_regression else "chooses among texts"
        raise ValueError(f"class_weights is {setting}, but {task.name} {what} and has no classes. Leave it out.")
    if setting != BALANCED:
        if not Path(setting).exists():
            raise ValueError(
                f"class_weights is {setting}; it must be {BALANCED} or a file, and there is no such file."
            )
        return _read_weights(setting, task)
    counts = Counter(chain.from_iterable(labels) if task.is_multi_label else labels)
    nowhere = [name for number, name in enumerate(task.labels) if not counts[number]]
    if nowhere:
        raise ValueError(
            f"class_weights is {BALANCED}, but no row of training has the label {name_classes(nowhere)}, whose weight "
            "would be infinite. Add such rows, or give the weights in a file."
        )
    if not task.is_multi_label:
        return [len(labels) / (len(task.labels) * counts[number]) for number in range(len(task.labels))]
    everywhere = [name for number, name in enumerate(task.labels) if counts[number] == len(labels)]
    if everywhere:
        raise ValueError(
            f"class_weights is {BALANCED}, but every row of training has the label {name_classes(everywhere)}, whose "
            "weight would be 0. Leave the label out, or give the weights in a file."
        )
    return [(len(labels) - counts[number]) / counts[number] for number in range(len(task.labels))]


def _read_weights(path: str | Path, task: Task) -> list[float]:
    weights: dict[str, float] = {}
    lines: dict[str, int] = {}
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        fields = [field.strip() for field in without_line_end(line).split("\t")]
        if len(fields) != 2:
            raise ValueError(
                f"{where}: has {len(fields)} {'field' if len(fields) == 1 else 'fields'}; it must have 2, a class and "
                "its weight, separated by a tab."
            )
        name, weight = fields[0], parse_number(fields[1])
        if name not in task.labels:
            raise ValueError(f"{where}: {name!r} is none of the task's classes: {name_classes(task.labels)}.")
        if name in lines:
            raise ValueError(f"{where}: the class {name!r} has a weight in line {lines[name]} already. Keep one.")
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"{where}: the weight of {name!r} is {fields[1]!r}; it must be a number above 0.")
        weights[name], lines[name] = weight, number
    missing = [name for name in task.labels if name not in weights]
    if missing:
        raise ValueError(f"{path}: there is no weight of {name_classes(missing)}. Add a line for every class.")
    return [weights[name] for name in task.labels]

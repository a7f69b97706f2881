"""Reports fine-tuning: scores, tables, and files of predictions in the format of GLUE's leaderboard."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.wording import counted
from .constant_answers import RULE
from .label_sets import applies, join_labels
from .metrics import TaskMetric, confusion_matrix, format_confusion_matrix, scores_of_labels, top_confusions
from .tasks import TASKS, Task

# The beginnings of the names of scores: of the rows of train that choose the checkpoint, if some are held out for it,
# of the validation splits and of the test splits.
HOLDOUT = "holdout"
KINDS = (HOLDOUT, "eval", "test")

# What a table says of each selection.
SELECTIONS = {
    "train_holdout": "selection train_holdout: rows of train that were held out chose the checkpoints; the validation "
    "split was only scored.",
    "validation": "selection validation: the validation split chose the checkpoints, so that its scores are higher "
    "than those of new rows.",
}

# The leaderboard's file for the similarity task may only have numbers in this range.
SIMILARITY_RANGE = (0.0, 5.0)

# With more classes, a matrix does not fit on the screen.
MAX_CLASSES_OF_MATRIX = 20


def score(
    task: Task,
    metric: TaskMetric,
    logits: np.ndarray,
    labels: np.ndarray,
    class_weights: Sequence[float] | None = None,
) -> dict[str, float]:
    """Computes the loss and the scores of a task.

    Returns:
        `loss`, in which all classes have the weight 1, so that it compares with that of a run without weights;
        with `class_weights` also `weighted_loss`, the one of training without the language model's; and the scores.
    """
    logits = logits.astype(np.float64)
    if task.is_regression:
        predictions = logits[:, 0]
        losses = {"loss": ((predictions - labels) ** 2).mean()}
    elif task.is_multi_label:
        predictions = applies(logits)
        absent, present = (1 - labels) * np.logaddexp(0, logits), labels * np.logaddexp(0, -logits)
        losses = {"loss": (absent + present).mean()}
        if class_weights is not None:
            losses["weighted_loss"] = (absent + present * np.array(class_weights)).mean()
    else:
        predictions = logits.argmax(axis=1)
        shifted = logits - logits.max(axis=1, keepdims=True)
        each = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
        losses = {"loss": each.mean()}
        if class_weights is not None:
            losses["weighted_loss"] = np.average(each, weights=np.array(class_weights)[labels])
    references = labels.astype(np.int64) if task.is_multi_label else labels
    scores = metric.compute(predictions=predictions, references=references)
    return {name: float(value) for name, value in losses.items()} | scores


def mistakes(task: Task, logits: np.ndarray, labels: np.ndarray) -> dict[str, list]:
    """Returns what tells where a classifier is wrong: `label_scores` if several labels may apply, or `confusions`."""
    if task.is_multi_label:
        return {"label_scores": scores_of_labels(labels, applies(logits), task.labels)}
    return confusions(task, logits, labels)


def confusions(task: Task, logits: np.ndarray, labels: np.ndarray) -> dict[str, list]:
    """Returns the confusions of classes: `confusion_matrix`, or `top_confusions` by name if there are many classes."""
    predictions = logits.argmax(axis=1)
    if len(task.labels) <= MAX_CLASSES_OF_MATRIX:
        return {"confusion_matrix": confusion_matrix(labels, predictions, len(task.labels))}
    return {
        "top_confusions": [
            {"label": task.labels[true], "predicted": task.labels[predicted], "examples": examples}
            for true, predicted, examples in top_confusions(labels, predictions)
        ]
    }


def write_predictions(path: Path, task: Task, logits: np.ndarray) -> None:
    """Writes a line for each example; for tasks of GLUE, in the format of its leaderboard."""
    if task.is_regression:
        numbers = logits[:, 0].clip(*SIMILARITY_RANGE) if task.submissions else logits[:, 0]
        predictions = [f"{number:.3f}" for number in numbers]
    elif task.is_multi_label:
        predictions = [join_labels(task, row) for row in applies(logits)]
    elif task.submissions and not task.submits_names:
        predictions = [str(number) for number in logits.argmax(axis=1)]
    else:
        predictions = [task.labels[number] for number in logits.argmax(axis=1)]
    lines = ["index\tprediction", *(f"{index}\t{prediction}" for index, prediction in enumerate(predictions))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def describe_run(task: Task, results: dict[str, Any]) -> str:
    """Returns the scores and the mistakes of one run as text."""
    lines = []
    for kind in KINDS:
        for name, value in results.items():
            if name.startswith(f"{kind}_confusion_matrix"):
                lines += ["", name, format_confusion_matrix(value, task.labels)]
            elif name.startswith(f"{kind}_label_scores"):
                lines += ["", f"{name}, the labels that apply to most texts first"]
                most = sorted(value, key=lambda each: -each["examples"])[:MAX_CLASSES_OF_MATRIX]
                lines += [
                    f"{each['label']}: precision {each['precision']:.3f}, recall {each['recall']:.3f}, "
                    f"F1 {each['f1']:.3f}, {counted(each['examples'], 'text')}"
                    for each in most
                ]
            elif name.startswith(f"{kind}_top_confusions"):
                lines += ["", name]
                lines += [f"{each['examples']:,} x {each['label']} predicted as {each['predicted']}" for each in value]
        numbers = {n: v for n, v in results.items() if n.startswith(f"{kind}_") and isinstance(v, float)}
        if numbers:
            lines.append("  ".join(f"{name} {value:.4g}" for name, value in numbers.items()))
    return "\n".join(lines).strip()


def summarize(task: Task, runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Summarizes a task's runs, given by their folders.

    Returns:
        Of each score the median, by its own name, and `_min`, `_max` and, of several runs, `_std`, their standard
        deviation; `median_run`, the folder of the run with the median score; `failed_runs`, the folders of those that
        failed to learn (see `constant_answers`); and `runs`.
    """
    names = [
        name
        for name, value in next(iter(runs.values())).items()
        if name.startswith(tuple(f"{kind}_" for kind in KINDS)) and isinstance(value, float)
    ]
    summary: dict[str, Any] = {}
    for name in names:
        values = [run[name] for run in runs.values()]
        summary |= {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}
        if len(values) > 1:
            summary[f"{name}_std"] = statistics.stdev(values)
    summary["wall_seconds"] = statistics.median(run["wall_seconds"] for run in runs.values())
    first = f"eval_{task.metrics[0]}"
    summary["median_run"] = min(runs, key=lambda name: abs(runs[name][first] - summary[first]))
    # A run that an earlier version finished does not say it.
    summary["failed_runs"] = [name for name, run in runs.items() if run.get("failed_to_learn")]
    return summary | {"runs": runs}


def score_names(task: Task) -> list[str]:
    """Returns the names of the scores of all validation splits; those of the first split come first."""
    return [f"{metric}{task.suffix(split)}" for split in task.validation for metric in task.metrics]


def glue_average(summaries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the mean score, times 100, of those tasks of GLUE that ran. Each task counts by its mean score."""
    scores = {}
    for name, summary in summaries.items():
        if name in TASKS and TASKS[name].submissions:
            names = [f"eval_{score}" for score in score_names(TASKS[name])]
            scores[name] = 100 * statistics.mean(summary[name] for name in names if name in summary)
    return {"glue_average": statistics.mean(scores.values()), "glue_average_of": list(scores)} if scores else {}


def format_table(tasks: Sequence[Task], results: dict[str, Any]) -> str:
    """Returns a Markdown table with a row for each score, times 100, and what it means. Empty columns are left out.

    Args:
        tasks: the tasks.
        results: the summaries of the tasks (`tasks`, see `summarize`), their `selection` and, if there are tasks of
            GLUE, their average.
    """
    several = any(len(summary["runs"]) > 1 for summary in results["tasks"].values())
    header = ["task", "score", "validation", "test", "paper (test)", "paper, no pre-training"]
    header += ["failed runs", "examples", "seconds"]
    rows = []
    for task in tasks:
        summary = results["tasks"][task.name]
        run = next(iter(summary["runs"].values()))
        for name in score_names(task):
            first = name == task.metrics[0]
            rows.append(
                [
                    task.name if first else "",
                    name,
                    *(format_score(summary, f"{kind}_{name}", several) for kind in ("eval", "test")),
                    *(f"{value}" if first and value else "" for value in (task.paper, task.paper_from_scratch)),
                    f"{len(summary['failed_runs'])} of {len(summary['runs'])}" if first else "",
                    f"{run['train_rows']:,}" if first else "",
                    f"{summary['wall_seconds']:.0f}" if first else "",
                ]
            )
    if "glue_average" in results:
        average = f"{results['glue_average']:.1f}"
        rows.append([f"average of {len(results['glue_average_of'])} of GLUE", "", average, *[""] * (len(header) - 3)])
    shown = [place for place in range(len(header)) if any(row[place] for row in rows)]
    lines = [[line[place] for place in shown] for line in (header, ["---"] * len(header), *rows)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table}\n\n{explain_table(results['selection'], several)}"


def explain_table(selection: str, several: bool) -> str:
    """Returns the sentences under a table: how checkpoints were chosen, and what its numbers are.

    Args:
        selection: a key of `SELECTIONS`.
        several: True if scores are of several seeds.
    """
    spread = "Scores of several seeds: median (lowest to highest; standard deviation). " if several else ""
    return f"{SELECTIONS[selection]} {spread}{RULE}"


def format_score(summary: dict[str, Any], name: str, several: bool) -> str:
    """Returns a score such as `71.2`, or the median and spread of several runs, `71.2 (70.4 to 71.9; 0.6)`."""
    if name not in summary:
        return ""
    if not several:
        return f"{100 * summary[name]:.1f}"
    median, low, high, deviation = (100 * summary[name + end] for end in ("", "_min", "_max", "_std"))
    return f"{median:.1f} ({low:.1f} to {high:.1f}; {deviation:.1f})"

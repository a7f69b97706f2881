"""Compares finished series of fine-tuning runs by a paired test over the seeds that they share."""

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from gpt1_scratch.data.text_lines import open_output
from papers_to_gpt.engine.output_folder import is_finished
from papers_to_gpt.engine.reporting import RESULTS_FILE, read_results
from papers_to_gpt.settings.finetuning import VALIDATION, SeriesComparison

EXPLANATION = (
    "Scores are means over the seeds, times 100. After ± is half of the 95 % interval of the mean difference; p is "
    "that of a paired t-test over the seeds. It says whether other seeds would show the difference, not whether other "
    "rows would."
)

# The runs of a task by seed, by the task's name.
Series = dict[str, dict[int, dict[str, Any]]]


def run(settings: SeriesComparison) -> None:
    """Prints a table of the scores of each series beside the first, and writes it to output_file if it is set.

    Raises:
        ValueError: if a folder holds no finished series, or two have no task or fewer than two seeds in common.
    """
    first, *others = settings.compare
    results = {folder: Path(folder, RESULTS_FILE) for folder in settings.compare}
    if settings.output_file and os.path.realpath(settings.output_file) in map(os.path.realpath, results.values()):
        raise ValueError(f"output_file is {settings.output_file}, which is read. Name another file.")
    baseline, selection = read_series(Path(first))
    rows = []
    for folder in others:
        series, other_selection = read_series(Path(folder))
        if other_selection != selection:
            print(f"Note: {first} has selection {selection}, and {folder} {other_selection}.")
        rows += compare_series(first, baseline, folder, series)
    print(f"{format_rows(rows)}\n\n{EXPLANATION}")
    if settings.output_file is not None:
        with open_output(settings.output_file) as output:
            print(json.dumps({"baseline": first, "comparisons": rows}, indent=2, ensure_ascii=False), file=output)


def read_series(folder: Path) -> tuple[Series, str]:
    """Returns the runs of a series by task and seed, and its selection.

    Raises:
        ValueError: if the folder holds no finished runs of several seeds.
    """
    results = read_results(folder)
    if not is_finished(folder) or "tasks" not in results:
        raise ValueError(
            f"{folder} holds no finished series of runs. Name a folder in which finetune_gpt1.py has ended with "
            "several seeds."
        )
    series = {}
    for task, summary in results["tasks"].items():
        names = {path: path.rpartition("/")[2] for path in summary["runs"]}
        if len(names) < 2:
            raise ValueError(
                f"{folder} holds one seed of {task}, but a paired test needs two. Run it with --seeds 1 2 3."
            )
        series[task] = {int(names[path].removeprefix("seed_")): run for path, run in summary["runs"].items()}
    return series, results.get("selection", VALIDATION)  # of a version that had no other


def compare_series(first: str, baseline: Series, folder: str, series: Series) -> list[dict[str, Any]]:
    """Returns a row for each score that both series have.

    Args:
        first, folder: the names of the two folders.
        baseline, series: their runs.

    Returns:
        Rows with `folder`, `task`, `score`, `seeds`, `baseline_mean`, `mean`, `difference` (of the means), `interval`
        (half of its 95 % interval) and `p_value`. The last two are None if the difference is the same for all seeds
        and not 0, which leaves nothing to estimate its spread from.

    Raises:
        ValueError: if the two have no task, or fewer than two seeds of a task, in common.
    """
    tasks = [task for task in series if task in baseline]
    if not tasks:
        raise ValueError(
            f"{first} has runs of {', '.join(baseline)}, and {folder} of {', '.join(series)}: no task is in both."
        )
    rows = []
    for task in tasks:
        seeds = sorted(set(baseline[task]) & set(series[task]))
        if len(seeds) < 2:
            raise ValueError(
                f"{task}: {first} has the seeds {_join(baseline[task])}, and {folder} {_join(series[task])}. A paired "
                "test needs two that both have. Run both with the same --seeds."
            )
        for name in score_names(baseline[task][seeds[0]]):
            if name in series[task][seeds[0]]:
                before, after = ([runs[task][seed][name] for seed in seeds] for runs in (baseline, series))
                rows.append(
                    {"folder": folder, "task": task, "score": name, "seeds": seeds} | paired_test(before, after)
                )
    return rows


def score_names(run: dict[str, Any]) -> list[str]:
    """Returns the names of the scores of the validation and test splits in the results of a run."""
    return [
        name
        for name, value in run.items()
        if name.startswith(("eval_", "test_")) and isinstance(value, float) and "loss" not in name
    ]


def paired_test(before: Sequence[float], after: Sequence[float]) -> dict[str, float | None]:
    """Compares scores of the same seeds by a paired t-test (see `compare_series` for what it returns)."""
    differences = [new - old for old, new in zip(before, after, strict=True)]
    difference = statistics.mean(differences)
    interval: float | None = None
    p_value: float | None = None
    if max(differences) - min(differences) > 1e-12:
        test = stats.ttest_rel(after, before)
        low, high = test.confidence_interval(0.95)
        interval, p_value = float(high - low) / 2, float(test.pvalue)
    elif abs(difference) <= 1e-12:
        interval, p_value = 0.0, 1.0
    return {
        "baseline_mean": statistics.mean(before),
        "mean": statistics.mean(after),
        "difference": difference,
        "interval": interval,
        "p_value": p_value,
    }


def format_rows(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table of the rows of `compare_series`."""
    lines = [["folder", "task", "score", "seeds", "first", "this", "difference", "p"], ["---"] * 8]
    for row in rows:
        interval = "" if row["interval"] is None else f" ± {100 * row['interval']:.1f}"
        p_value = "the same for all seeds" if row["p_value"] is None else f"{row['p_value']:.4f}"
        numbers = [f"{100 * row[key]:.1f}" for key in ("baseline_mean", "mean")]
        difference = f"{100 * row['difference']:+.1f}{interval}"
        lines.append([row["folder"], row["task"], row["score"], _join(row["seeds"]), *numbers, difference, p_value])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _join(seeds: Sequence[int] | dict[int, Any]) -> str:
    return ", ".join(map(str, sorted(seeds)))

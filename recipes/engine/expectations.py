"""Compares the end of a run with what its preset expects, and says what to check first where they differ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from papers_to_gpt.engine.data_fingerprint import Fingerprint, rows_of_fingerprint
from papers_to_gpt.engine.output_folder import RunStart
from papers_to_gpt.engine.reporting import LOG_FILE, RESULTS_FILE, RUN_FILE, read_results
from papers_to_gpt.settings.expected import ExpectedNumber
from papers_to_gpt.settings.presets import EXPECTED
from papers_to_gpt.settings.training import is_lower_better

AS_EXPECTED, BETTER, WORSE = "as expected", "better than expected", "not as expected"
NOT_COMPARED = "not compared"

# The scores in percent; all others that have a best possible value have 1.
IN_PERCENT = ("exact_match", "sacrebleu", "bleu_tokenized_lowercased", "chrf")

THINGS_TO_SHOW = 3


@dataclass(frozen=True)
class Outcome:
    """What came of a run, or of a series of runs of one task.

    Attributes:
        scores: its final scores by name; of a series, their medians.
        runs: the results of each run, one for each seed.
        data: gives the fingerprint of the data that it has read; None if the settings alone decide on the data.
        task: the name of its task; None if the recipe has no tasks.
    """

    scores: Mapping[str, Any]
    runs: Sequence[Mapping[str, Any]]
    data: Callable[[], Fingerprint] | None = None
    task: str | None = None


def compare_with_expected(
    start: RunStart, outcomes: Sequence[Outcome], starting_model: str | None = None
) -> dict[str, Any]:
    """Compares what came of a run with the numbers of its preset.

    Args:
        start: the start of the run, with its settings.
        outcomes: what came of it, one for each task.
        starting_model: the folder of the model that the run started from; None if it started from nothing.

    Returns:
        The entry `expected` for `all_results.json`: the name of the preset, and for each number that concerns the run
        the verdict, the expected range and the score, or why they are not compared. Nothing for a run without a
        preset.
    """
    expected = start.training.expected
    if expected is None:
        return {}
    comparisons = []
    for outcome in outcomes:
        concerned: dict[str, list[tuple[list[str], ExpectedNumber]]] = {}
        for number, conflicts in zip(expected.numbers, expected.conflicts, strict=True):
            if number.task in (None, outcome.task):
                concerned.setdefault(number.metric, []).append((conflicts, number))
        for several in concerned.values():
            # Numbers with other settings do not concern a run that has one for its own.
            conflicts, number = min(several, key=lambda each: len(each[0]))
            comparisons.append(_compare(number, conflicts, start, outcome, starting_model))
        if not concerned:
            of_task = f" for the task {outcome.task}" if expected.numbers else ""
            reason = f"This preset has no expected number{of_task}."
            comparisons.append({**_task(outcome), "verdict": NOT_COMPARED, "reason": reason})
    return {EXPECTED: {"preset": expected.preset, "comparisons": comparisons}}


def say_expected(results: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Says a line for each comparison in the results of a run; nothing if it has no preset."""
    for comparison in results.get(EXPECTED, {}).get("comparisons", []):
        say(describe(comparison))


def expected_range(number: ExpectedNumber) -> tuple[float, float]:
    """Returns the lowest and the highest score that are as expected, within those that are possible."""
    low, high = number.value - number.tolerance, number.value + number.tolerance
    if is_lower_better(number.metric):
        return max(low, 0.0), high
    if number.metric.endswith(IN_PERCENT):
        return max(low, 0.0), min(high, 100.0)
    return low, min(high, 1.0)


def _task(outcome: Outcome) -> dict[str, str]:
    return {} if outcome.task is None else {"task": outcome.task}


def _compare(
    number: ExpectedNumber, conflicts: list[str], start: RunStart, outcome: Outcome, starting_model: str | None
) -> dict[str, Any]:
    low, high = expected_range(number)
    score = outcome.scores.get(number.metric)
    found = {**_task(outcome), "metric": number.metric, "lowest": round(low, 6), "highest": round(high, 6)}
    reason = _why_not(number, conflicts, start, outcome, starting_model)
    if reason is not None:
        return {**found, "got": score, "verdict": NOT_COMPARED, "reason": reason}
    # A score that is NaN is within no range and on no better side.
    if low <= score <= high:
        return {**found, "got": score, "verdict": AS_EXPECTED}
    if score < low if is_lower_better(number.metric) else score > high:
        return {**found, "got": score, "verdict": BETTER}
    check = _things_to_check(number, start, outcome, starting_model)
    return {**found, "got": score, "verdict": WORSE, "check": check[:THINGS_TO_SHOW]}


def _why_not(
    number: ExpectedNumber, conflicts: list[str], start: RunStart, outcome: Outcome, starting_model: str | None
) -> str | None:
    """Why a number does not apply to a run, as a sentence without its end; None if it applies."""
    if conflicts:
        more = len(conflicts) - THINGS_TO_SHOW
        return f"the number is for other settings: {', '.join(conflicts[:THINGS_TO_SHOW])}" + (
            f" and {more} more" if more > 0 else ""
        )
    if start.changes:
        return f"the run was resumed with changes: {'; '.join(change.rstrip('.') for change in start.changes)}"
    batches, of_preset = start.batches_per_update, start.training.gradient_accumulation_steps
    if batches != of_preset:
        return f"an update of this run read {batches} batches, on several processes, and the preset's {of_preset}"
    for run in outcome.runs:
        if run["train_updates"] < run.get("train_planned_updates", 0):
            return f"the run ended after {run['train_updates']:,} of {run['train_planned_updates']:,} updates"
    data = outcome.data() if outcome.data is not None else None
    if number.data not in (None, data, rows_of_fingerprint(data)):
        return f"the number is for other data: {number.data}, not {data}"
    if number.starts_from is not None and not _is_of_preset(starting_model, number.starts_from):
        return (
            f"the number is for a model that the preset {number.starts_from} has trained to its end, and the records "
            "of the model that this run started from do not say so"
        )
    if number.statistic == "median" and len(outcome.runs) < 2:
        seeds = " ".join(map(str, range(1, number.seeds + 1)))
        return f"the run has one seed, and the number is the median of {number.seeds}; --seeds {seeds} makes them"
    if number.metric not in outcome.scores:
        return f"the run has no score {number.metric}"
    return None


def _is_of_preset(folder: str | None, preset: str) -> bool:
    """Whether the records of a model say that it was trained by a preset, as the preset has it."""
    if folder is None:
        return False
    try:
        entry = read_results(Path(folder)).get(EXPECTED) or {}
        compared = [each["verdict"] != NOT_COMPARED for each in entry["comparisons"]]
        return entry["preset"] == preset and bool(compared) and all(compared)
    except (ValueError, KeyError, TypeError, AttributeError):  # damaged, or of an earlier version
        return False


def _things_to_check(
    number: ExpectedNumber, start: RunStart, outcome: Outcome, starting_model: str | None
) -> list[str]:
    """What may explain a score that is too low, the most likely cause first."""
    things = []
    if skipped := sum(run.get("train_skipped_updates", 0) for run in outcome.runs):
        things.append(f"the {skipped:,} updates that were skipped, as their loss was not finite: lower learning_rate")
    if starting_model is not None:
        things.append(f"the entry {EXPECTED} in the {RESULTS_FILE} of the model that the run started from")
    if len(outcome.runs) > 1:
        scores = ", ".join(f"{run[number.metric]:.4g}" for run in outcome.runs if number.metric in run)
        things.append(f"whether a seed failed to learn: the seeds have {scores}")
    else:
        comes_from = "one seed" if number.seeds == 1 else f"{number.seeds} seeds"
        things.append(f"another seed (--seed {start.training.seed + 1}): the number comes from {comes_from}")
        things.append(f"whether the loss in {LOG_FILE} falls to the end, without jumps")
    things.append(
        f"versions, precision and machine in {RUN_FILE}: the number comes from {number.hardware}, with the versions "
        "of constraints.txt"
    )
    things.append("the lines of this run that say how many rows of the data were left out or cut")
    return things


def describe(comparison: Mapping[str, Any]) -> str:
    """Returns a comparison, as `compare_with_expected` has it, as text."""
    verdict = comparison["verdict"]
    if "metric" not in comparison:
        return comparison["reason"]
    name = " ".join(filter(None, [comparison.get("task"), comparison["metric"]]))
    expected = f"{name} {comparison['lowest']:.4g} to {comparison['highest']:.4g}"
    if verdict == NOT_COMPARED:
        return f"Not compared with the expected {expected}: {comparison['reason']}."
    line = f"Expected {expected}, got {comparison['got']:.4g}: {verdict}."
    if verdict == BETTER:
        line += " Check that no row that it is scored on is among the training rows; then raise the preset's number."
    if verdict == WORSE:
        things = [f"{place}) {thing}" for place, thing in enumerate(comparison["check"], start=1)]
        line += f" Check first: {', '.join(things)}."
    return line

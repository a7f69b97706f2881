"""Devlin et al. 2018: BERT (arXiv 1810.04805), for comparison: what it does otherwise than GPT-1."""

import statistics
from dataclasses import replace

from papers_to_gpt.papers.experiment import Chart, Experiment, Finding, Table, compare, over_seeds
from papers_to_gpt.papers.language_models import (
    MASKED,
    TRANSFORMER,
    finetuned,
    mean_by_seed,
    planned_updates,
    pretrained,
    short_name,
    task_scores,
    tasks_of,
    what_is_scored,
)
from papers_to_gpt.papers.workbench import Run, Workbench, count_weights

PAPER = "devlin2018"
CAUSAL = "left to right (GPT-1)"
BOTH, BOTH_AS_LONG = "both directions (BERT), equal tokens", "both directions (BERT), equal time"
KINDS = (CAUSAL, BOTH, BOTH_AS_LONG)
TASKS = ("acceptability", "entailment", "paraphrase")  # of the stories
UPDATES_ROUNDED_TO = 50  # so that a little noise in the measured times does not lead to another run


def both_directions(bench: Workbench) -> Finding:
    """Table 5 of the BERT paper: one model that predicts the next token, and one that predicts masked tokens.

    The second one is pre-trained twice: on as many tokens as the first, and for as much time.
    """
    pretraining = {CAUSAL: pretrained(bench, TRANSFORMER), BOTH: pretrained(bench, MASKED)}
    runs = {kind: _finetuned(bench, run) for kind, run in pretraining.items()}
    tasks = [short_name(name or "own") for run in runs[CAUSAL] for name in tasks_of(run)]
    bench.make(*pretraining.values())
    seconds = [max(0.1, bench.results(run)["train_seconds"]) for run in pretraining.values()]
    as_long = updates_in_equal_time(planned_updates(bench, MASKED), *seconds)
    pretraining[BOTH_AS_LONG] = pretrained(bench, MASKED, max_steps=as_long)
    bench.make(pretraining[BOTH_AS_LONG], *(run for each in runs.values() for run in each))
    runs[BOTH_AS_LONG] = _finetuned(bench, pretraining[BOTH_AS_LONG])
    bench.make(*runs[BOTH_AS_LONG])
    scores = {
        (kind, short_name(task)): found
        for kind, each in runs.items()
        for run in each
        for task, found in task_scores(bench, run).items()
    }
    averages = {kind: mean_by_seed(scores[kind, task] for task in tasks) for kind in KINDS}
    weights = {kind: count_weights(bench.path(run)) for kind, run in pretraining.items()}
    equal_tokens, equal_time = (
        compare(averages[kind], averages[CAUSAL], ("masked tokens", "next tokens"), score="Average score", digits=1)
        for kind in (BOTH, BOTH_AS_LONG)
    )
    return Finding(
        method="Models of the same size are pre-trained: one predicts each next token, the others 15 % of the tokens, "
        "which are masked (80 %), replaced (10 %) or kept (10 %), from both sides, one of them on as many tokens and "
        "one for as many seconds. All are fine-tuned on the same tasks without an auxiliary loss.",
        table=Table(
            ("pre-training", "average", *tasks, "weights", "pre-training, updates", "pre-training, seconds"),
            [
                (
                    kind,
                    statistics.mean(averages[kind]),
                    *(statistics.mean(scores[kind, task]) for task in tasks),
                    f"{weights[kind]:,}",
                    bench.results(run)["train_updates"],
                    bench.results(run)["train_seconds"],
                )
                for kind, run in pretraining.items()
            ],
            digits=1,
        ),
        paper=Table(
            ("model, BERT's Table 5", "MNLI-m", "QNLI", "MRPC", "SST-2"),
            [
                ("BERT base", 84.4, 88.4, 86.7, 92.7),
                ("no next sentence prediction", 83.9, 84.9, 86.5, 92.6),
                ("left to right, no next sentence prediction", 82.1, 84.3, 77.5, 92.1),
            ],
            digits=1,
        ),
        verdict=replace(
            equal_tokens,
            reason=f"At equal tokens: {equal_tokens.reason} At equal time ({as_long:,} updates of masked tokens), the "
            f"claim {'is ' if equal_time.holds is None else ''}{equal_time.word}: {equal_time.reason}",
            numbers={"at equal tokens": equal_tokens.numbers, "at equal time": equal_time.numbers},
        ),
        charts=[
            Chart(
                "tasks",
                "",
                "score, times 100",
                [over_seeds(kind, tasks, [scores[kind, task] for task in tasks]) for kind in KINDS],
                kind="bars",
            )
        ],
        notes=[
            what_is_scored(bench, *runs[CAUSAL]),
            "Seconds are those of the updates alone, when the model was trained. Equal times need equal threads and "
            f"load; the updates are rounded to {UPDATES_ROUNDED_TO}.",
        ],
    )


def _finetuned(bench: Workbench, pretraining: Run) -> list[Run]:
    """Returns the runs that fine-tune a pre-trained model on every task."""
    presets = [f"stories/{task}" for task in TASKS] if bench.scale == "small" else [""]
    # A masked model has no auxiliary language modeling loss; so neither has the other.
    return [finetuned(bench, preset, (), bench.path(pretraining), auxiliary_loss_weight=0.0) for preset in presets]


def updates_in_equal_time(updates: int, wanted_seconds: float, seconds: float) -> int:
    """Returns how many updates take the wanted time if `updates` take `seconds`, rounded."""
    return max(1, round(updates * wanted_seconds / seconds / UPDATES_ROUNDED_TO)) * UPDATES_ROUNDED_TO


EXPERIMENTS = [
    Experiment(
        "both_directions",
        PAPER,
        "Table 5 of the BERT paper",
        "A model that sees both directions is better to fine-tune than one that reads from left to right.",
        "It holds if the masked model has the higher average score after equally many tokens.",
        both_directions,
        minutes=15,
        unless=dict.fromkeys(
            ("small", "novels"),
            "With equal updates, predicting 15 % of the tokens learns from a seventh of the targets; BERT was trained "
            "for many more updates.",
        ),
        scales=("small", "novels"),
    ),
]

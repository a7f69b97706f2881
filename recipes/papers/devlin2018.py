"""Devlin et al. 2018: BERT (arXiv 1810.04805), for comparison: what it does otherwise than GPT-1."""

import statistics

from papers_to_gpt.papers.experiment import Chart, Experiment, Finding, Table, compare, over_seeds
from papers_to_gpt.papers.language_models import (
    MASKED,
    TRANSFORMER,
    finetuned,
    mean_by_seed,
    pretrained,
    short_name,
    task_scores,
    tasks_of,
    what_is_scored,
)
from papers_to_gpt.papers.workbench import Workbench, count_weights

PAPER = "devlin2018"
CAUSAL, BOTH = "left to right (GPT-1)", "both directions, masked tokens (BERT)"
KINDS = (CAUSAL, BOTH)
TASKS = ("acceptability", "entailment", "paraphrase")  # of the stories


def both_directions(bench: Workbench) -> Finding:
    """Table 5 of the BERT paper: one model that predicts the next token, and one that predicts masked tokens."""
    pretraining = {CAUSAL: pretrained(bench, TRANSFORMER), BOTH: pretrained(bench, MASKED)}
    # A masked model has no auxiliary language modeling loss; so neither has the other.
    changes = {"auxiliary_loss_weight": 0.0}
    presets = [f"stories/{task}" for task in TASKS] if bench.scale == "small" else [""]
    runs = {
        kind: [finetuned(bench, preset, (), bench.path(run), **changes) for preset in presets]
        for kind, run in pretraining.items()
    }
    tasks = [short_name(name or "own") for run in runs[CAUSAL] for name in tasks_of(run)]
    bench.make(*pretraining.values())
    bench.make(*(run for each in runs.values() for run in each))
    scores = {
        (kind, short_name(task)): found
        for kind, each in runs.items()
        for run in each
        for task, found in task_scores(bench, run).items()
    }
    averages = {kind: mean_by_seed(scores[kind, task] for task in tasks) for kind in KINDS}
    weights = {kind: count_weights(bench.path(run)) for kind, run in pretraining.items()}
    return Finding(
        method="Two models of the same size are pre-trained on the same number of tokens: one predicts each next "
        "token, the other 15 % of the tokens, which are masked (80 %), replaced (10 %) or kept (10 %), from both "
        "sides. Both are fine-tuned on the same tasks without an auxiliary loss.",
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
        verdict=compare(
            averages[BOTH],
            averages[CAUSAL],
            ("masked tokens", "next tokens"),
            score="Average score",
            digits=1,
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
        notes=[what_is_scored(bench, *runs[CAUSAL])],
    )


EXPERIMENTS = [
    Experiment(
        "both_directions",
        PAPER,
        "Table 5 of the BERT paper",
        "A model that sees both directions is better to fine-tune than one that reads from left to right.",
        "It holds if the masked model has the higher average score.",
        both_directions,
        minutes=16,
        unless=dict.fromkeys(
            ("small", "novels"),
            "With equal updates, predicting 15 % of the tokens learns from a seventh of the targets; BERT was trained "
            "for many more updates.",
        ),
        scales=("small", "novels"),
    ),
]

"""Radford et al. 2018: Improving Language Understanding by Generative Pre-Training."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sklearn.metrics import matthews_corrcoef
from transformers import AutoTokenizer

from gpt1_scratch import GPT1ForCausalLM
from gpt1_scratch.pretraining.zero_shot import choose_endings, compare_words, mean_log_probabilities
from gpt1_scratch.stories.tasks import load_story_task
from papers_to_gpt.engine.checkpointing import all_checkpoints_in, update_of
from papers_to_gpt.engine.durable_files import write_durably
from papers_to_gpt.papers.experiment import (
    Chart,
    Experiment,
    Finding,
    Table,
    Verdict,
    compare,
    is_monotonic,
    over_seeds,
)
from papers_to_gpt.papers.workbench import Run, Workbench
from papers_to_gpt.plots.line_plots import Series

PAPER = "radford2018"
TRANSFORMER, LSTM = "Transformer", "LSTM"
CHECKPOINTS = 6  # of each pre-training, spread evenly
UPDATES = {TRANSFORMER: 1500, LSTM: 750}
PRESETS = {TRANSFORMER: "stories/gpt1_mini", LSTM: "stories/lstm_mini"}
# The tasks of `table_5`: one that needs grammar, one that needs knowledge of the stories' world.
TASKS = {"stories_acceptability": "matthews_correlation", "stories_sentiment": "accuracy"}
ACCEPTABILITY = "stories_acceptability"
FULL, SCRATCH, NO_AUXILIARY, LSTM_ROW = "full", "no_pretraining", "no_auxiliary_loss", "lstm"


def pretrained(kind: str) -> Run:
    """Returns the pre-training run of the Transformer or the LSTM, which keeps checkpoints on its way."""
    settings = {"save_steps": UPDATES[kind] // CHECKPOINTS, "save_total_limit": 0, "num_samples": 0, "seed": 42}
    return Run("pretrain_gpt1", PRESETS[kind], settings)


def table_5(bench: Workbench) -> Finding:
    """Table 5: the full recipe, without pre-training, without the auxiliary loss, and with an LSTM."""
    transformer, lstm = bench.make(pretrained(TRANSFORMER), pretrained(LSTM))
    run = Run(
        "ablate_gpt1",
        "stories/sentiment",
        {
            "model_name_or_path": transformer,
            "lstm_model_name_or_path": lstm,
            "task": list(TASKS),
            "seeds": bench.seeds,
            "layers": [],
        },
    )
    bench.make(run)
    variants = bench.results(run)["variants"]
    names = {FULL: "full", SCRATCH: "no pre-training", NO_AUXILIARY: "no auxiliary loss", LSTM_ROW: "LSTM"}
    scores = {
        variant: [_scores(variants[variant][task], metric) for task, metric in TASKS.items()] for variant in names
    }
    averages = {variant: _mean_by_seed(scores[variant]) for variant in names}
    verdict = compare(
        averages[FULL], averages[SCRATCH], ("pre-training", "no pre-training"), score="Average score", digits=1
    )
    lstm_gain = statistics.mean(averages[FULL]) - statistics.mean(averages[LSTM_ROW])
    return Finding(
        method="The small GPT-1 and an LSTM are pre-trained on the embedded stories and fine-tuned on two of their "
        "tasks. Each variant leaves out one part.",
        table=Table(
            ("variant", "average", *(task.removeprefix("stories_") for task in TASKS)),
            [
                (name, statistics.mean(averages[variant]), *(statistics.mean(each) for each in scores[variant]))
                for variant, name in names.items()
            ],
            digits=1,
        ),
        paper=Table(
            ("variant", "average", "CoLA", "SST-2"),
            [
                ("full", 74.7, 45.4, 91.3),
                ("no pre-training", 59.9, 18.9, 84.0),
                ("no auxiliary LM", 75.0, 47.9, 92.0),
                ("LSTM", 69.1, 30.3, 90.5),
            ],
            digits=1,
        ),
        verdict=Verdict(verdict.holds and lstm_gain > 0, f"{verdict.reason} Against the LSTM it is {lstm_gain:+.1f}."),
        charts=[
            Chart(
                "variants",
                "",
                "score, times 100",
                [
                    over_seeds(task.removeprefix("stories_"), list(names.values()), [scores[v][index] for v in names])
                    for index, task in enumerate(TASKS)
                ],
                kind="bars",
            )
        ],
        notes=["Scores are the Matthews correlation (acceptability) and the accuracy (sentiment), times 100."],
    )


def _scores(summary: dict[str, Any], metric: str) -> list[float]:
    """Returns a validation score of a task for each seed, times 100, from a summary of fine-tuning."""
    return [100 * run[f"eval_{metric}"] for run in summary["runs"].values()]


def final_scores(results: dict[str, Any], metric: str) -> list[float]:
    """Returns the same from the results of fine-tuning on one task, with one seed or several."""
    if "tasks" in results:
        (summary,) = results["tasks"].values()
        return _scores(summary, metric)
    return [100 * results[f"eval_{metric}"]]


def _mean_by_seed(scores: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.mean(each) for each in zip(*scores, strict=True)]


def transferred_layers(bench: Workbench) -> Finding:
    """Figure 2, left: fine-tuning with only the first blocks pre-trained."""
    (model,) = bench.make(pretrained(TRANSFORMER))
    blocks = 4
    run = Run(
        "ablate_gpt1",
        "stories/acceptability",
        {"model_name_or_path": model, "seeds": bench.seeds, "layers": list(range(blocks))},
    )
    bench.make(run)
    variants = bench.results(run)["variants"]
    layers = list(range(blocks + 1))
    scores = [
        _scores(variants[f"layers_{number}" if number < blocks else FULL][ACCEPTABILITY], TASKS[ACCEPTABILITY])
        for number in layers
    ]
    means = [statistics.mean(each) for each in scores]
    return Finding(
        method="GPT-1 is fine-tuned on acceptability with its embeddings and the weights of the first blocks from "
        "pre-training; the other blocks start at random.",
        table=Table(("pre-trained blocks", "Matthews correlation"), list(zip(layers, means, strict=True)), digits=1),
        paper=Table(("transferred", "MultiNLI accuracy"), [("each layer", "helps, up to 9 % for all of them")]),
        verdict=Verdict(
            is_monotonic(means, tolerance=1.0) and means[-1] > means[0],
            "Scores by transferred blocks: " + ", ".join(f"{mean:.1f}" for mean in means) + ".",
        ),
        charts=[
            Chart(
                "layers",
                "pre-trained blocks",
                "Matthews correlation, times 100",
                [over_seeds("acceptability", layers, scores)],
                options={"integer_x": True},
            )
        ],
    )


ROWS = 200  # of each task, for the zero-shot scores
# What follows a text of the sentiment task, and the words that are compared behind it.
QUESTION, WORDS = " How", ("sad", "happy")


def zero_shot(bench: Workbench) -> Finding:
    """Figure 2, right: tasks solved by the language model's probabilities, during pre-training."""
    runs = {kind: pretrained(kind) for kind in (TRANSFORMER, LSTM)}
    bench.make(*runs.values())
    heuristics = {"acceptability": _acceptability, "sentiment": _sentiment, "cloze": _cloze}
    chance = {"acceptability": 0.0, "sentiment": 50.0, "cloze": 50.0}
    rows, found = [], {kind: {name: [] for name in heuristics} for kind in runs}
    for kind, run in runs.items():
        for checkpoint in _checkpoints(bench.path(run)):
            model = GPT1ForCausalLM.from_pretrained(checkpoint).eval()
            tokenizer = AutoTokenizer.from_pretrained(checkpoint)
            share = update_of(checkpoint) / UPDATES[kind]
            scores = {name: heuristic(model, tokenizer) for name, heuristic in heuristics.items()}
            for name, score in scores.items():
                found[kind][name].append((100 * share, score))
            rows.append((kind, f"{100 * share:.0f} %", *scores.values()))
    # As in the paper, scores count from chance (0) to a perfect one (1), and are averaged over the tasks.
    relative = {
        kind: [
            statistics.mean((found[kind][name][index][1] - chance[name]) / (100 - chance[name]) for name in heuristics)
            for index in range(len(found[kind]["cloze"]))
        ]
        for kind in runs
    }
    rises = relative[TRANSFORMER][-1] > relative[TRANSFORMER][0]
    ahead = relative[TRANSFORMER][-1] > relative[LSTM][-1]
    return Finding(
        method=f"Checkpoints of the pre-training of GPT-1 and of the LSTM solve {ROWS} validation rows of three tasks "
        "without fine-tuning: acceptability by the mean log-probability of a sentence's tokens (above or below the "
        "median), sentiment by comparing two words, and cloze by the mean log-probability of an ending.",
        table=Table(("model", "of pre-training", *(f"{name}, times 100" for name in heuristics)), rows, digits=1),
        verdict=Verdict(
            rises and ahead,
            "The mean score from chance (0) to perfect (1) goes from "
            f"{relative[TRANSFORMER][0]:.2f} to {relative[TRANSFORMER][-1]:.2f} for the Transformer and from "
            f"{relative[LSTM][0]:.2f} to {relative[LSTM][-1]:.2f} for the LSTM.",
        ),
        charts=[
            Chart(
                "zero_shot",
                "part of the pre-training, %",
                "relative score, 0 is chance",
                [Series(kind, [share for share, _ in found[kind]["cloze"]], relative[kind]) for kind in runs],
            ),
            Chart(
                "zero_shot_tasks",
                "part of the pre-training, %",
                "score, times 100",
                [
                    Series(f"{kind}, {name}", [x for x, _ in points], [y for _, y in points])
                    for kind in runs
                    for name, points in found[kind].items()
                ],
            ),
        ],
        notes=[
            f"The sentiment heuristic appends `{QUESTION.strip()}` to a text and compares {WORDS[1]} and {WORDS[0]}."
        ],
    )


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(all_checkpoints_in(folder), key=update_of)


def _acceptability(model: GPT1ForCausalLM, tokenizer: Any) -> float:
    rows = load_story_task("acceptability", train_size=1, validation_size=ROWS, test_size=1)["validation"]
    scores = mean_log_probabilities(model, tokenizer, rows["sentence"][:])
    threshold = statistics.median(scores)
    return 100 * float(matthews_corrcoef(rows["label"][:], [score > threshold for score in scores]))


def _sentiment(model: GPT1ForCausalLM, tokenizer: Any) -> float:
    rows = load_story_task("sentiment", train_size=1, validation_size=ROWS, test_size=1)["validation"]
    margins = compare_words(model, tokenizer, [text + QUESTION for text in rows["sentence"]], WORDS)
    return 100 * statistics.mean(
        (margin > 0) == bool(label) for margin, label in zip(margins, rows["label"], strict=True)
    )


def _cloze(model: GPT1ForCausalLM, tokenizer: Any) -> float:
    rows = load_story_task("cloze", train_size=1, validation_size=ROWS, test_size=1)["validation"]
    endings = list(zip(rows["ending1"], rows["ending2"], strict=True))
    chosen = choose_endings(model, tokenizer, rows["context"][:], endings)
    return 100 * statistics.mean(a == b for a, b in zip(chosen, rows["label"], strict=True))


def transfer_by_updates(bench: Workbench) -> Finding:
    """Fine-tuning from checkpoints of the pre-training."""
    (folder,) = bench.make(pretrained(TRANSFORMER))
    checkpoints = _checkpoints(folder)[::2]
    runs = {
        checkpoint: Run(
            "finetune_gpt1",
            "stories/acceptability",
            {"model_name_or_path": checkpoint, "seeds": bench.seeds},
        )
        for checkpoint in checkpoints
    }
    bench.make(*runs.values())
    updates = [update_of(checkpoint) for checkpoint in checkpoints]
    scores = [final_scores(bench.results(run), TASKS[ACCEPTABILITY]) for run in runs.values()]
    means = [statistics.mean(each) for each in scores]
    return Finding(
        method="GPT-1 is fine-tuned on acceptability from checkpoints of its pre-training.",
        table=Table(
            ("updates of pre-training", "Matthews correlation"), list(zip(updates, means, strict=True)), digits=1
        ),
        verdict=Verdict(means[-1] > means[0], "Scores: " + ", ".join(f"{mean:.1f}" for mean in means) + "."),
        charts=[
            Chart(
                "transfer",
                "updates of pre-training",
                "Matthews correlation, times 100",
                [over_seeds("acceptability", updates, scores)],
            )
        ],
    )


SIZES = (250, 1000, 4000)


def auxiliary_loss(bench: Workbench) -> Finding:
    """Section 5, Table 5: the auxiliary language modeling loss by the number of examples."""
    (model,) = bench.make(pretrained(TRANSFORMER))
    folder = bench.data_folder / "auxiliary_loss"
    data = load_story_task("acceptability", train_size=max(SIZES))
    splits = {f"train_{size}": data["train"].select(range(size)) for size in SIZES} | {"test": data["test"]}
    for split, rows in splits.items():
        path = folder / f"{split}.tsv"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            lines = [f"{row['sentence']}\t{('unacceptable', 'acceptable')[row['label']]}" for row in rows]
            write_durably(path, "\n".join(["sentence\tlabel", *lines]) + "\n")
    runs = {
        (size, weight): Run(
            "finetune_gpt1",
            "stories/acceptability",
            {
                "model_name_or_path": model,
                "task": [],
                "train_file": folder / f"train_{size}.tsv",
                "validation_file": folder / "test.tsv",
                "selection": "validation",  # the smallest sizes have no row to spare
                "seeds": bench.seeds,
                "auxiliary_loss_weight": weight,
            },
        )
        for size in SIZES
        for weight in (0.5, 0.0)
    }
    bench.make(*runs.values())
    scores = {key: final_scores(bench.results(run), "accuracy") for key, run in runs.items()}
    gains = [statistics.mean(scores[size, 0.5]) - statistics.mean(scores[size, 0.0]) for size in SIZES]
    return Finding(
        method="GPT-1 is fine-tuned on acceptability with and without the auxiliary loss, on more and more examples.",
        table=Table(
            ("examples", "with the auxiliary loss", "without", "gain"),
            [
                (size, statistics.mean(scores[size, 0.5]), statistics.mean(scores[size, 0.0]), gain)
                for size, gain in zip(SIZES, gains, strict=True)
            ],
            digits=1,
        ),
        paper=Table(("data sets", "auxiliary loss"), [("larger", "helps"), ("smaller", "does not help")]),
        verdict=Verdict(
            gains[-1] > gains[0],
            "The gain is " + ", ".join(f"{gain:+.1f} ({size})" for size, gain in zip(SIZES, gains, strict=True)) + ".",
        ),
        charts=[
            Chart(
                "by_size",
                "examples",
                "accuracy, times 100",
                [
                    over_seeds(name, SIZES, [scores[size, weight] for size in SIZES])
                    for name, weight in (("with the auxiliary loss", 0.5), ("without", 0.0))
                ],
                options={"log_x": True},
            )
        ],
    )


EXPERIMENTS = [
    Experiment(
        "table_5",
        PAPER,
        "Table 5",
        "Pre-training makes the fine-tuned model better, and the Transformer is better than an LSTM.",
        table_5,
        minutes=14,
        core=True,
    ),
    Experiment(
        "auxiliary_loss",
        PAPER,
        "section 5",
        "The auxiliary loss helps large data sets more than small ones.",
        auxiliary_loss,
        minutes=8,
    ),
    Experiment(
        "transferred_layers",
        PAPER,
        "Figure 2, left",
        "Every pre-trained block helps.",
        transferred_layers,
        minutes=10,
    ),
    Experiment(
        "zero_shot",
        PAPER,
        "Figure 2, right",
        "Pre-training alone teaches tasks, steadily, and a Transformer more than an LSTM.",
        zero_shot,
        minutes=7,
        core=True,
    ),
    Experiment(
        "transfer_by_updates",
        PAPER,
        "section 5",
        "Longer pre-training makes the fine-tuned model better.",
        transfer_by_updates,
        minutes=8,
    ),
]

"""Runs the ablation of GPT-1's fine-tuning: a series of runs for each part that is left out."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from datasets import disable_progress_bars
from transformers.utils import logging as transformers_logging

from gpt1_scratch.finetuning.models import load_pretrained
from gpt1_scratch.finetuning.reports import explain_table, format_score
from gpt1_scratch.finetuning.tasks import Task
from papers_to_gpt.engine.data_fingerprint import fingerprint_files
from papers_to_gpt.engine.hardware import FOR_BATCHES_OF_ROWS, keep_compiled_code
from papers_to_gpt.engine.launching import make_accelerator
from papers_to_gpt.engine.output_folder import RunStart, finish_run, plan_run
from papers_to_gpt.engine.process_watch import stops_together
from papers_to_gpt.engine.reporting import write_results, write_run_record
from papers_to_gpt.engine.run_lock import lock_output_dir
from papers_to_gpt.gpt1.finetuning import (
    FILES_OF_MODEL,
    check_metrics,
    check_resuming_of_series,
    fingerprint_data,
    run_series,
)
from papers_to_gpt.gpt1.task_data import TaskData, load_data
from papers_to_gpt.plots.line_plots import Series, plot_lines
from papers_to_gpt.plots.style import save_figure
from papers_to_gpt.settings.finetuning import AblationSettings, TaskSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FULL = "full"
TABLE_FILE, PLOT_FILE = "ablation.md", "ablation.png"  # and ablation.svg

# The rows of the paper's table 5: the settings that each changes.
VARIANTS: dict[str, dict[str, Any]] = {
    FULL: {},
    "no_pretraining": {"from_scratch": True},
    "no_auxiliary_loss": {"auxiliary_loss_weight": 0.0},
}
LSTM = "lstm"
LAYERS = "layers_{}"


@stops_together
def run(settings: tuple[Any, ...]) -> None:
    """Runs every variant and writes the table and the plot.

    Args:
        settings: from `papers_to_gpt.settings.finetuning.parse_ablation`.
    """
    ablation, start, data, _, training, _ = settings
    check_resuming_of_series(training)
    keep_compiled_code(FOR_BATCHES_OF_ROWS)
    accelerator = make_accelerator(training)
    lstm = ablation.lstm_model_name_or_path
    with lock_output_dir(accelerator, training):
        run_start = plan_run(
            accelerator,
            training,
            settings,
            lambda: (
                fingerprint_data(start, data)
                | {"lstm_model_name_or_path": fingerprint_files(lstm, within=FILES_OF_MODEL)}
            ),
            is_series=True,
        )
        if run_start.finished is None:
            train(accelerator, settings, run_start)


def train(accelerator: Accelerator, settings: tuple[Any, ...], run_start: RunStart) -> None:
    """Runs the variants, from the beginning or from the state of the output folder.

    Args:
        accelerator: the accelerator of the run.
        settings: the settings that `run` takes.
        run_start: the state of the output folder.
    """
    ablation, start, data, optimization, training, hub = settings
    output_dir = run_start.folder
    started = time.perf_counter()
    disable_progress_bars()
    transformers_logging.disable_progress_bar()

    # Data
    with accelerator.main_process_first():
        tasks = load_tasks(start.model_name_or_path, start.revision, data, accelerator.print)
        if not tasks[0].backbone.is_causal:
            raise ValueError(
                f"model_name_or_path is {start.model_name_or_path}, which has bidirectional attention, and so "
                "no auxiliary loss, which this script varies. Name a model that was pre-trained with objective "
                "next_token, or compare runs of finetune_gpt1.py."
            )
        blocks = len(tasks[0].backbone.blocks)
        variants = plan(ablation, blocks)
        lstm_tasks = []
        if ablation.lstm_model_name_or_path is not None:
            lstm_tasks = load_tasks(ablation.lstm_model_name_or_path, None, data, accelerator.print)
            if lstm_tasks[0].backbone.config.lstm_size is None:
                raise ValueError(
                    f"lstm_model_name_or_path is {ablation.lstm_model_name_or_path}, which is a Transformer. Name a "
                    "model that was pre-trained with lstm_size."
                )
    check_metrics([*tasks, *lstm_tasks], training)
    if accelerator.is_main_process:
        run_start.begin()
        write_run_record(output_dir, accelerator, settings, **run_start.record())

    # Training and evaluation
    summaries = {}
    for name, changes in variants.items():
        changed = (dataclasses.replace(start, **changes), data, optimization, training, hub)
        summaries[name] = run_series(lstm_tasks if name == LSTM else tasks, changed, output_dir / name)

    # Sharing
    names = [part.task for part in tasks]
    several = len(data.seeds) > 1
    table = f"{format_table(names, summaries)}\n\n{explain_table(tasks[0].selection, several)}"
    if accelerator.is_main_process:
        results = {"selection": tasks[0].selection, "variants": summaries}
        write_results(output_dir, results | {"wall_seconds": round(time.perf_counter() - started, 1)})
        (output_dir / TABLE_FILE).write_text(table + "\n", encoding="utf-8")
        if find_spec("matplotlib") is None:
            accelerator.print("No plot was made because matplotlib is not installed (pip install matplotlib).")
        else:
            save_figure(plot_layers(names, summaries, blocks), output_dir / PLOT_FILE)
        finish_run(output_dir)
    accelerator.print(
        f"\n{table}\n\nDone after {time.perf_counter() - started:.0f} s. The results are in {output_dir}."
    )


def load_tasks(model: str, revision: str | None, data: TaskSettings, say: Callable[[str], None]) -> list[TaskData]:
    """Loads the tasks, tokenized for a pre-trained model."""
    backbone, tokenizer = load_pretrained(model, revision)
    return [load_data(name, data, backbone, tokenizer, say) for name in data.names()]


def plan(settings: AblationSettings, blocks: int) -> dict[str, dict[str, Any]]:
    """Returns the changes to `StartSettings` that make each variant. The full model transfers all blocks.

    Raises:
        ValueError: if `layers` has a number that is larger than the model's number of blocks.
    """
    layers = range(blocks) if settings.layers is None else settings.layers
    wrong = [number for number in layers if not 0 <= number <= blocks]
    if wrong:
        raise ValueError(f"layers is {wrong[0]}; the model has {blocks} blocks.")
    lstm = settings.lstm_model_name_or_path
    return (
        VARIANTS
        | ({} if lstm is None else {LSTM: {"model_name_or_path": lstm, "revision": None}})
        | {LAYERS.format(number): {"transferred_layers": number} for number in layers if number < blocks}
    )


def format_table(tasks: Sequence[Task], summaries: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Returns a Markdown table like table 5: a row for each variant, with the first score of each task times 100."""
    several = any(len(part["runs"]) > 1 for summary in summaries.values() for part in summary.values())
    lines = [
        ["variant", "average", *(f"{task.name} ({task.metrics[0]})" for task in tasks), "failed runs"],
        ["---"] * (3 + len(tasks)),
    ]
    for variant, summary in summaries.items():
        names = [f"eval_{task.metrics[0]}" for task in tasks]
        scores = [format_score(summary[task.name], name, several) for task, name in zip(tasks, names, strict=True)]
        average = statistics.mean(summary[task.name][name] for task, name in zip(tasks, names, strict=True))
        failed, runs = (sum(len(part[key]) for part in summary.values()) for key in ("failed_runs", "runs"))
        lines.append([variant.replace("_", " "), f"{100 * average:.1f}", *scores, f"{failed} of {runs}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot_layers(tasks: Sequence[Task], summaries: dict[str, dict[str, dict[str, Any]]], blocks: int) -> "Figure":
    """Plots each task's score against the number of transferred blocks, as in figure 2 (left) of the paper.

    Error bars are the least and largest score of the seeds, dotted lines the scores without pre-training.
    """
    variants = {LAYERS.format(number): number for number in range(blocks)} | {FULL: blocks}
    points = sorted((variants[name], name) for name in summaries if name in variants)
    series = []
    for task in tasks:
        name = f"eval_{task.metrics[0]}"
        low, median, high = (
            [100 * summaries[variant][task.name][name + end] for _, variant in points] for end in ("_min", "", "_max")
        )
        reference = 100 * summaries["no_pretraining"][task.name][name]
        layers = [number for number, _ in points]
        series.append(Series(f"{task.name}, {task.metrics[0]}", layers, median, low, high, reference))
    return plot_lines(
        series,
        x_label="transferred blocks (dotted: no pre-training)",
        y_label="score on validation, times 100",
        integer_x=True,
    )

"""Fine-tunes GPT-1 on tasks: a single run, or one run for each task and seed and a table of their scores."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import disable_progress_bars
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from gpt1_scratch import GPT1Model
from gpt1_scratch.finetuning.class_weights import BALANCED
from gpt1_scratch.finetuning.examples import collate_examples, predict
from gpt1_scratch.finetuning.metrics import TaskMetric
from gpt1_scratch.finetuning.models import load_pretrained, make_task_model
from gpt1_scratch.finetuning.reports import (
    HOLDOUT,
    KINDS,
    describe_run,
    format_table,
    glue_average,
    mistakes,
    score,
    summarize,
    write_predictions,
)
from papers_to_gpt.engine.batching import Batch, LengthBucketBatches
from papers_to_gpt.engine.checkpointing import all_checkpoints_in
from papers_to_gpt.engine.data_fingerprint import Fingerprint, fingerprint_files
from papers_to_gpt.engine.evaluation import map_across_processes, rehearse_evaluation
from papers_to_gpt.engine.expectations import Outcome, compare_with_expected, say_expected
from papers_to_gpt.engine.hardware import FOR_BATCHES_OF_ROWS, keep_compiled_code
from papers_to_gpt.engine.launching import make_accelerator
from papers_to_gpt.engine.log_window import TokenCounts
from papers_to_gpt.engine.model_folder import CLASSIFIER, LANGUAGE_MODEL, MASKED_MODEL, OPENAI_GPT, check_folder
from papers_to_gpt.engine.output_folder import RunStart, finish_run, is_finished, plan_run
from papers_to_gpt.engine.process_watch import stops_together
from papers_to_gpt.engine.reporting import RESULTS_FILE, write_results, write_run_record
from papers_to_gpt.engine.run_length import describe_length
from papers_to_gpt.engine.run_lock import lock_output_dir, on_main_process
from papers_to_gpt.engine.training import TrainingLoop
from papers_to_gpt.gpt1.task_data import TaskData, describe_selection, load_data
from papers_to_gpt.publishing.cards import write_card
from papers_to_gpt.publishing.sharing import open_repository, push_at_end, push_of_checkpoints
from papers_to_gpt.settings.commands import command
from papers_to_gpt.settings.finetuning import FinetuningSettings, Settings, StartSettings, TaskSettings
from papers_to_gpt.settings.hub import HubSettings
from papers_to_gpt.settings.training import check_metric

TABLE_FILE = "results.md"

# The files of a pre-trained model that a fine-tuning depends on.
FILES_OF_MODEL = ("config.json", "tokenizer.json", "*.safetensors")

# Examples of a rehearsed evaluation: correlations need two.
REHEARSED_EXAMPLES = 2


@stops_together
def run(settings: Settings) -> None:
    """Fine-tunes on one task, or on several tasks or with several seeds, and shares the model.

    Args:
        settings: from `papers_to_gpt.settings.finetuning.parse`.
    """
    start, data, _, training, _ = settings
    is_series = len(data.names()) > 1 or len(data.seeds) > 1
    if is_series:
        check_resuming_of_series(training)
    keep_compiled_code(FOR_BATCHES_OF_ROWS)
    accelerator = make_accelerator(training)
    with lock_output_dir(accelerator, training):
        fingerprints = partial(fingerprint_data, start, data)
        run_start = plan_run(accelerator, training, settings, fingerprints, is_series=is_series)
        if run_start.finished is None:
            train(accelerator, settings, run_start)


def train(accelerator: Accelerator, settings: Settings, run_start: RunStart) -> None:
    """Fine-tunes a model, from its beginning or from the checkpoints in the output folder.

    Args:
        accelerator: the accelerator of the run.
        settings: the settings that `run` takes.
        run_start: the state of the output folder.
    """
    start, data, _, training, hub = settings
    output_dir = run_start.folder
    repository = open_repository(accelerator, hub, run_start.training)
    started = time.perf_counter()
    disable_progress_bars()
    transformers_logging.disable_progress_bar()

    # Data
    with accelerator.main_process_first():
        check_folder(start.model_name_or_path, kinds=(LANGUAGE_MODEL, CLASSIFIER, MASKED_MODEL, OPENAI_GPT))
        backbone, tokenizer = load_pretrained(start.model_name_or_path, start.revision)
        if start.auxiliary_loss_weight and not backbone.is_causal:
            accelerator.print(
                f"auxiliary_loss_weight is {start.auxiliary_loss_weight:g}, but {start.model_name_or_path} has "
                "bidirectional attention: it sees the next token, so the auxiliary loss is off."
            )
        tasks = [load_data(name, data, backbone, tokenizer, accelerator.print) for name in data.names()]
    check_metrics(tasks, training)

    # Model, training, evaluation: see `finetune`
    if len(tasks) == 1 and len(data.seeds) < 2:
        (seed,) = data.seeds or [training.seed]
        results = finetune(accelerator, tasks[0], settings, run_start, seed, push_of_checkpoints(repository, hub))
        report, chosen = describe_run(tasks[0].task, results), output_dir
        outcomes = [Outcome(results, [results], tasks[0].count_rows, tasks[0].task.name)]
    else:
        if accelerator.is_main_process:
            run_start.begin()
            write_run_record(output_dir, accelerator, settings, **run_start.record())
        summaries = run_series(tasks, settings, output_dir)
        results = {"selection": tasks[0].selection, "tasks": summaries} | glue_average(summaries)
        report = format_table([part.task for part in tasks], results)
        chosen = output_dir / summaries[tasks[0].task.name]["median_run"]
        outcomes = [
            Outcome(summary, list(summary["runs"].values()), part.count_rows, part.task.name)
            for part, summary in zip(tasks, summaries.values(), strict=True)
        ]
    results["wall_seconds"] = round(time.perf_counter() - started, 1)
    results |= compare_with_expected(run_start, outcomes, start.model_name_or_path)

    # Sharing
    if accelerator.is_main_process:
        write_results(output_dir, results)
        if "tasks" in results:
            (output_dir / TABLE_FILE).write_text(report + "\n", encoding="utf-8")
            finish_run(output_dir)
    accelerator.print(f"\n{report}")
    say_expected(results, accelerator.print)
    classify = command("classify", "--model_name_or_path", chosen, "--input_file", "texts.csv")
    accelerator.print(HOW_TO_USE.format(classify=classify, folder=chosen, seconds=results["wall_seconds"]))
    push_at_end(repository, chosen)


HOW_TO_USE = """
Done after {seconds:.0f} s. To predict with the model in {folder}:

{classify}
"""


def fingerprint_data(start: StartSettings, data: TaskSettings) -> dict[str, Fingerprint | None]:
    """Returns the fingerprints of the files that the settings name, and of the pre-trained model."""
    files = {name: fingerprint_files(getattr(data, name)) for name in ("train_file", "validation_file", "test_file")}
    return files | {
        "data_dir": fingerprint_files(data.data_dir, within=[f"{name}/*" for name in data.names()]),
        "class_weights": None if data.class_weights == BALANCED else fingerprint_files(data.class_weights),
        "model_name_or_path": fingerprint_files(start.model_name_or_path, within=FILES_OF_MODEL),
    }


def check_metrics(tasks: Sequence[TaskData], training: FinetuningSettings) -> None:
    """Checks that the evaluation of every task reports `metric_for_best_model`.

    Raises:
        ValueError: if it does not; the message names the scores of the task.
    """
    if training.metric_for_best_model is None:
        return
    for data in tasks:
        task = data.task
        check_metric(
            training.metric_for_best_model,
            [
                f"{name}{data.suffix(split)}"
                for split in data.selecting_splits()
                for name in ("loss", *(["weighted_loss"] if data.class_weights else []), *task.metrics)
            ],
        )


def run_series(tasks: Sequence[TaskData], settings: Settings, output_dir: Path) -> dict[str, dict[str, Any]]:
    """Runs every task with every seed, in subfolders, and returns the summary of each task (see `summarize`)."""
    _, task_settings, _, training, _ = settings
    seeds = task_settings.seeds or [training.seed]
    summaries = {}
    for data in tasks:
        runs = {}
        for seed in seeds:
            place = ([data.task.name] if len(tasks) > 1 else []) + ([f"seed_{seed}"] if len(seeds) > 1 else [])
            runs["/".join(place)] = run_in_folder(data, settings, output_dir.joinpath(*place), seed)
        summaries[data.task.name] = summarize(data.task, runs)
    return summaries


def run_in_folder(data: TaskData, settings: Settings, folder: Path, seed: int) -> dict[str, Any]:
    """Runs one of several runs. If the series is resumed, a finished run is not repeated and others continue."""
    start, task_settings, optimization, training, _ = settings
    top = Path(training.output_dir)
    run_name = "-".join((training.run_name or top.resolve().name, *folder.relative_to(top).parts))
    training = dataclasses.replace(training, output_dir=str(folder), seed=seed, run_name=run_name)
    training = dataclasses.replace(training, resume_from_checkpoint=None)  # each run resumes by itself
    task_settings = dataclasses.replace(
        task_settings, task=[data.task.name] if task_settings.task else [], seeds=[seed]
    )
    # Of a series only the median run is pushed, after all of them.
    settings = (start, task_settings, optimization, training, HubSettings())
    accelerator = make_accelerator(training)
    results = on_main_process(accelerator, partial(finished_results, folder))
    if results is None:
        accelerator.print(f"\n{folder}")
        run_start = plan_run(accelerator, training, settings)
        results = finetune(accelerator, data, settings, run_start, seed, in_series=True)
    # A series needs only the model and the results of a finished run, not its checkpoints.
    if accelerator.is_main_process:
        for checkpoint in all_checkpoints_in(folder):
            shutil.rmtree(checkpoint)
    accelerator.wait_for_everyone()
    return results


def finished_results(folder: Path) -> dict[str, Any] | None:
    """Returns the results of a run of a series; None if it has not ended."""
    return json.loads((folder / RESULTS_FILE).read_text()) if is_finished(folder) else None


def check_resuming_of_series(training: FinetuningSettings) -> None:
    """Checks that several runs are not resumed from one checkpoint.

    Raises:
        ValueError: if resume_from_checkpoint names a folder.
    """
    if training.resume_from_checkpoint not in (None, "last"):
        raise ValueError(
            f"resume_from_checkpoint is {training.resume_from_checkpoint!r}, but there are several runs. Set it to "
            "last, which resumes each of them from where it stands, or leave it out."
        )


def finetune(
    accelerator: Accelerator,
    data: TaskData,
    settings: Settings,
    run_start: RunStart,
    seed: int,
    after_save: Callable[[Path], None] | None = None,
    in_series: bool = False,
) -> dict[str, Any]:
    """Fine-tunes on one task with one seed. Saves the model of the best checkpoint and its scores in the folder."""
    start, task_settings, optimization, _, _ = settings
    training, output_dir = run_start.training, run_start.folder
    task, examples = data.task, data.examples
    started = time.perf_counter()

    # Model
    set_seed(seed)
    model = make_task_model(
        task,
        data.backbone,
        data.tokenizer,
        from_scratch=start.from_scratch,
        transferred_layers=start.transferred_layers,
        mean_label=float(examples["train"].labels.mean()),
        **config_changes(start, data.backbone),
    )
    accelerator.print(
        f"GPT-1 with {model.num_parameters():,} parameters, "
        + ("from scratch" if start.from_scratch else f"from {start.model_name_or_path}")
    )
    if accelerator.is_main_process:
        run_start.begin()
        entries = {"parameters": model.num_parameters(), "in_series": in_series} | run_start.record()
        if data.class_weights:
            entries["class_weights"] = dict(zip(task.labels, data.class_weights, strict=True))
        write_run_record(output_dir, accelerator, settings, **entries)

    # Training
    def save_model(folder: Path, state_dict: dict[str, Any] | None = None) -> None:
        model.save_pretrained(folder, state_dict=state_dict)
        data.tokenizer.save_pretrained(folder)

    pad_token_id = data.tokenizer.pad_token_id
    batches = LengthBucketBatches(
        examples["train"],
        examples["train"].lengths,
        partial(collate_examples, pad_token_id=pad_token_id),
        max_rows_per_batch=task_settings.per_device_train_batch_size,
        seed=seed,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        num_workers=training.dataloader_num_workers,
    )
    logits_of = partial(
        predict,
        pad_token_id=pad_token_id,
        batch_size=task_settings.per_device_eval_batch_size,
        distribute=partial(map_across_processes, accelerator),
    )
    weights = data.class_weights
    scores_of = partial(score, task, TaskMetric(task.metrics, task.is_multi_label), class_weights=weights)
    metric = training.metric_for_best_model or task.metrics[0]
    run_evaluation = partial(evaluate, data=data, logits_of=logits_of, scores_of=scores_of)
    loop = TrainingLoop(
        accelerator,
        model,
        batches,
        dataclasses.replace(training, seed=seed, metric_for_best_model=metric),
        optimization,
        evaluate=run_evaluation,
        save_model=save_model,
        after_save=after_save,
        count_tokens=partial(count_examples, class_weights=weights),
        counted="examples",
        loss_arguments=weights and {"class_weights": torch.tensor(weights, device=accelerator.device)},
        labels_per_target=len(task.labels) if task.is_multi_label else 1,
    )
    accelerator.print(describe_length(loop.total_updates, loop.eval_steps, training, optimization))
    rehearse_evaluation(model, partial(run_evaluation, limit=REHEARSED_EXAMPLES), metric)
    results = loop.train()

    # Evaluation
    model.eval()
    results |= score_splits(accelerator, model, data, logits_of, scores_of, output_dir)
    results |= {"labels": task.labels, "train_rows": len(examples["train"])} | describe_selection(data, results)
    results["wall_seconds"] = round(time.perf_counter() - started + loop.earlier_seconds, 1)

    # Sharing
    if accelerator.is_main_process:
        write_results(output_dir, results)
        write_card(output_dir)
        finish_run(output_dir, loop.progress, loop.total_updates)
    accelerator.free_memory()
    return results


def score_splits(
    accelerator: Accelerator,
    model: PreTrainedModel,
    data: TaskData,
    logits_of: Callable[..., Any],
    scores_of: Callable[..., dict[str, float]],
    output_dir: Path,
) -> dict[str, Any]:
    """Returns the scores and the most frequent mistakes on every split that is not trained on. Writes the predictions
    of test sets to the output folder."""
    results = {}
    for kind in KINDS:
        for split in data.splits_of(kind):
            suffix, labels = data.suffix(split), data.examples[split].labels
            logits = logits_of(model, data.examples[split])
            if labels is not None:
                values = scores_of(logits, labels)
                if kind != HOLDOUT and not data.task.is_regression:
                    values = values | mistakes(data.task, logits, labels)
                results |= {f"{kind}_{name}{suffix}": value for name, value in values.items()}
            if kind == "test" and accelerator.is_main_process:
                write_predictions(output_dir / data.task.predictions_file(split), data.task, logits)
    return results


def config_changes(start: StartSettings, backbone: GPT1Model) -> dict[str, float]:
    """Returns the settings that change the model's configuration; a bidirectional model has no auxiliary loss."""
    return start.of_config() | ({} if backbone.is_causal else {"auxiliary_loss_weight": 0.0})


def evaluate(
    model: PreTrainedModel,
    *,
    data: TaskData,
    logits_of: Callable[..., Any],
    scores_of: Callable[..., dict[str, float]],
    limit: int | None = None,
) -> dict[str, float]:
    """Returns the loss and the scores on the splits that choose the checkpoint.

    Args:
        model: the model.
        data: the task and its examples.
        logits_of: function from the model and examples to logits.
        scores_of: function from logits and labels to scores.
        limit: number of examples of each split to read, also of those that are read at the end only, for a rehearsal.
            None reads all.
    """
    scores = {}
    chosen_by = data.selecting_splits()
    for split in chosen_by if limit is None else [name for kind in KINDS for name in data.splits_of(kind)]:
        part = data.examples[split] if limit is None else data.examples[split].first(limit)
        logits = logits_of(model, part)
        values = {} if part.labels is None else scores_of(logits, part.labels)
        if split in chosen_by:
            scores |= {f"{name}{data.suffix(split)}": value for name, value in values.items()}
    return scores


def count_examples(batch: Batch, class_weights: Sequence[float] | None = None) -> TokenCounts:
    """Counts a batch. Its targets are the examples: the loss is summed over them and divided by their number.

    With `class_weights` and one class for each example, it also sums the weights of the examples' classes.
    """
    labels, weight = batch["labels"], None
    if class_weights is not None:
        weight = 0.0 if labels.is_floating_point() else sum(class_weights[label] for label in labels.tolist())
    return TokenCounts(len(labels), int(batch["attention_mask"].sum()), batch["input_ids"].numel(), weight)

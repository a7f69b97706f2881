"""Fine-tunes GPT-1 on tasks: one run, or a run for each task and seed with a table of the scores."""

import dataclasses
import json
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import disable_progress_bars
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from gpt1_scratch import GPT1Model
from gpt1_scratch.finetuning.examples import TaskExamples, collate_examples, predict, tokenize_task
from gpt1_scratch.finetuning.inference import ColumnOverrides
from gpt1_scratch.finetuning.loading import load_task
from gpt1_scratch.finetuning.metrics import TaskMetric
from gpt1_scratch.finetuning.models import load_pretrained, make_task_model
from gpt1_scratch.finetuning.reports import (
    confusions,
    describe_run,
    format_table,
    glue_average,
    score,
    summarize,
    write_predictions,
)
from gpt1_scratch.finetuning.tasks import Task
from papers_to_gpt.engine.batching import Batch, LengthBucketBatches
from papers_to_gpt.engine.checkpointing import checkpoints_in
from papers_to_gpt.engine.evaluation import map_across_processes, rehearse_evaluation
from papers_to_gpt.engine.hardware import FOR_BATCHES_OF_ROWS, keep_compiled_code
from papers_to_gpt.engine.model_folder import CLASSIFIER, LANGUAGE_MODEL, OPENAI_GPT, check_folder
from papers_to_gpt.engine.output_folder import prepare_output_dir
from papers_to_gpt.engine.reporting import RESULTS_FILE, write_results, write_run_record
from papers_to_gpt.engine.training import TokenCounts, TrainingLoop, make_accelerator
from papers_to_gpt.publishing.cards import write_card
from papers_to_gpt.publishing.sharing import open_repository, push_at_end, push_of_checkpoints
from papers_to_gpt.settings.finetuning import FinetuningSettings, Settings, TaskSettings
from papers_to_gpt.settings.hub import HubSettings
from papers_to_gpt.settings.training import check_metric

TABLE_FILE = "results.md"

# Examples of a rehearsed evaluation: correlations need two.
REHEARSED = 2


@dataclass(frozen=True)
class TaskData:
    """A task with its tokenised splits, and what all its runs start from."""

    task: Task
    examples: dict[str, TaskExamples]
    tokenizer: PreTrainedTokenizerFast
    backbone: GPT1Model


def run(settings: Settings) -> None:
    """Runs one fine-tuning or a series of them, from data to sharing.

    Args:
        settings: from `papers_to_gpt.settings.finetuning.parse`.
    """
    start, data, _, training, hub = settings
    keep_compiled_code(FOR_BATCHES_OF_ROWS)
    accelerator = make_accelerator(training)
    repository = open_repository(accelerator, hub, training)
    output_dir = prepare_output_dir(accelerator, training, settings)
    started = time.perf_counter()
    disable_progress_bars()
    transformers_logging.disable_progress_bar()

    # Data
    with accelerator.main_process_first():
        check_folder(start.model_name_or_path, kinds=(LANGUAGE_MODEL, CLASSIFIER, OPENAI_GPT))
        backbone, tokenizer = load_pretrained(start.model_name_or_path, start.revision)
        tasks = [load_data(name, data, backbone, tokenizer, accelerator.print) for name in data.names()]
    check_metrics(tasks, training)

    # Model, training, evaluation: see `finetune`
    if len(tasks) == 1 and len(data.seeds) < 2:
        (seed,) = data.seeds or [training.seed]
        results = finetune(accelerator, tasks[0], settings, output_dir, seed, push_of_checkpoints(repository, hub))
        report, chosen = describe_run(tasks[0].task, results), output_dir
    else:
        if accelerator.is_main_process:
            write_run_record(output_dir, accelerator, settings)
        summaries = run_series(tasks, settings, output_dir)
        results = {"tasks": summaries} | glue_average(summaries)
        report = format_table([part.task for part in tasks], results)
        chosen = output_dir / summaries[tasks[0].task.name]["median_run"]
    results["wall_seconds"] = round(time.perf_counter() - started, 1)

    # Sharing
    if accelerator.is_main_process:
        write_results(output_dir, results)
        if "tasks" in results:
            (output_dir / TABLE_FILE).write_text(report + "\n", encoding="utf-8")
    accelerator.print(f"\n{report}")
    accelerator.print(
        HOW_TO_USE.format(folder=chosen, quoted=shlex.quote(str(chosen)), seconds=results["wall_seconds"])
    )
    push_at_end(repository, chosen)


HOW_TO_USE = """
Done after {seconds:.0f} s. To use the model in {folder}:

python recipes/classify.py --model_name_or_path {quoted} --input_file texts.csv
"""


def load_data(
    name: str | None,
    data: TaskSettings,
    backbone: GPT1Model,
    tokenizer: PreTrainedTokenizerFast,
    say: Callable[[str], None],
) -> TaskData:
    """A task's splits, tokenised, with a word about each."""
    positions = backbone.config.max_position_embeddings
    max_length = data.max_length or positions
    # The frame and a token of each text.
    if not 5 <= max_length <= positions:
        raise ValueError(f"max_length is {max_length}; it must be from 5 to max_position_embeddings, {positions}.")
    names = [field.name for field in dataclasses.fields(ColumnOverrides)]
    task, splits = load_task(
        name,
        train_file=data.train_file,
        validation_file=data.validation_file,
        test_file=data.test_file,
        data_dir=data.data_dir,
        own_columns=ColumnOverrides(**{name: getattr(data, name) for name in names}),
        validation_share=data.validation_share,
    )
    say(task.describe())
    examples = {}
    for split, part in splits.items():
        examples[split] = tokenize_task(task, part, tokenizer, max_length)
        notes = part.notes
        if cut := examples[split].cut:
            notes += (f"{cut:,} are longer than {max_length} tokens and cut",)
        say(f"{split}: " + "; ".join([f"{len(part):,} examples", *notes]))
    return TaskData(task, examples, tokenizer, backbone)


def check_metrics(tasks: Sequence[TaskData], training: FinetuningSettings) -> None:
    """Refuses a metric_for_best_model that the evaluation of one of the tasks will not report.

    Raises:
        ValueError: names the scores of that task.
    """
    if training.metric_for_best_model is None:
        return
    for data in tasks:
        task = data.task
        check_metric(
            training.metric_for_best_model,
            [
                f"{name}{task.suffix(split)}"
                for split in task.validation
                if split in data.examples
                for name in ("loss", *task.metrics)
            ],
        )


def run_series(tasks: Sequence[TaskData], settings: Settings, output_dir: Path) -> dict[str, dict[str, Any]]:
    """A run for each task and seed, in subfolders; gives each task's summary (see `summarize`)."""
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
    """Runs one of several runs. In a resumed series, the results of a finished run are read; other runs resume."""
    start, task_settings, optimization, training, _ = settings
    top = Path(training.output_dir)
    run_name = "-".join((training.run_name or top.resolve().name, *folder.relative_to(top).parts))
    training = dataclasses.replace(training, output_dir=str(folder), seed=seed, run_name=run_name)
    if training.resume_from_checkpoint:
        if training.resume_from_checkpoint != "last":
            raise ValueError(
                f"resume_from_checkpoint is {training.resume_from_checkpoint!r}, but there are several runs. Resume "
                "them all from where they stand: last."
            )
        if (folder / RESULTS_FILE).is_file():
            return json.loads((folder / RESULTS_FILE).read_text())
        if not checkpoints_in(folder):
            training = dataclasses.replace(training, resume_from_checkpoint=None, overwrite_output_dir=True)
    task_settings = dataclasses.replace(
        task_settings, task=[data.task.name] if task_settings.task else [], seeds=[seed]
    )
    # Of a series it is the median run that is pushed, once it is known.
    settings = (start, task_settings, optimization, training, HubSettings())
    accelerator = make_accelerator(training)
    prepare_output_dir(accelerator, training, settings)
    accelerator.print(f"\n{folder}")
    results = finetune(accelerator, data, settings, folder, seed)
    # What a series needs of a finished run is its model and its results.
    if accelerator.is_main_process:
        for checkpoint in checkpoints_in(folder):
            shutil.rmtree(checkpoint)
    accelerator.wait_for_everyone()
    return results


def finetune(
    accelerator: Accelerator,
    data: TaskData,
    settings: Settings,
    output_dir: Path,
    seed: int,
    after_save: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """One run: one task, one seed. Leaves the best checkpoint's model with its scores in the folder."""
    start, task_settings, optimization, training, _ = settings
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
        **start.of_config(),
    )
    accelerator.print(
        f"GPT-1 with {model.num_parameters():,} parameters, "
        + ("from scratch" if start.from_scratch else f"from {start.model_name_or_path}")
    )
    if accelerator.is_main_process:
        write_run_record(output_dir, accelerator, settings, parameters=model.num_parameters())

    # Training
    def save_model(folder: Path) -> None:
        model.save_pretrained(folder)
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
    scores_of = partial(score, task, TaskMetric(task.metrics))
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
        count_tokens=count_examples,
        counted="examples",
    )
    rehearse_evaluation(model, partial(run_evaluation, limit=REHEARSED), metric)
    results = loop.train()

    # Evaluation
    model.eval()
    for split in (*task.validation, *task.test):
        if split in examples:
            logits, labels, suffix = logits_of(model, examples[split]), examples[split].labels, task.suffix(split)
            kind = "test" if split in task.test else "eval"
            if labels is not None:
                results |= {f"{kind}_{name}{suffix}": value for name, value in scores_of(logits, labels).items()}
                if not task.is_regression:
                    mistakes = confusions(task, logits, labels)
                    results |= {f"{kind}_{name}{suffix}": value for name, value in mistakes.items()}
            if kind == "test" and accelerator.is_main_process:
                write_predictions(output_dir / task.predictions_file(split), task, logits)
    results |= {"labels": task.labels, "train_rows": len(examples["train"])}
    results["wall_seconds"] = round(time.perf_counter() - started, 1)

    # Sharing
    if accelerator.is_main_process:
        write_results(output_dir, results)
        write_card(output_dir)
    accelerator.free_memory()
    return results


def evaluate(
    model: PreTrainedModel,
    *,
    data: TaskData,
    logits_of: Callable[..., Any],
    scores_of: Callable[..., dict[str, float]],
    limit: int | None = None,
) -> dict[str, float]:
    """Loss and scores on validation.

    Args:
        limit: only so many examples of each split are read, from the first, as a rehearsal; a test split's too.
    """
    scores = {}
    for split in (*data.task.validation, *(data.task.test if limit is not None else ())):
        if split in data.examples:
            part = data.examples[split] if limit is None else data.examples[split].first(limit)
            if part.labels is None:
                logits_of(model, part)
                continue
            values = scores_of(logits_of(model, part), part.labels)
            scores |= {f"{name}{data.task.suffix(split)}": value for name, value in values.items()}
    return scores


def count_examples(batch: Batch) -> TokenCounts:
    """The loss is a sum over examples."""
    return TokenCounts(len(batch["labels"]), int(batch["attention_mask"].sum()), batch["input_ids"].numel())

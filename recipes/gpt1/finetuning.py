"""Fine-tunes GPT-1 on tasks: GLUE's, the paper's others, small embedded ones, or files of your own.

python recipes/finetune_gpt1.py recipes/presets/stories/sentiment.yaml
python recipes/finetune_gpt1.py --model_name_or_path runs/mini --train_file mine.csv --output_dir runs/mine
python recipes/finetune_gpt1.py recipes/presets/glue/gpt1.yaml --data_dir glue --task cola mrpc --seeds 1 2 3
accelerate launch recipes/finetune_gpt1.py PRESET.yaml
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import disable_progress_bars
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from gpt1_scratch import GPT1Model
from gpt1_scratch.finetuning.examples import TaskExamples, collate_examples, predict, tokenize_task
from gpt1_scratch.finetuning.loading import STORIES, OwnColumns, load_task
from gpt1_scratch.finetuning.metrics import TaskMetric, confusion_matrix
from gpt1_scratch.finetuning.models import load_pretrained, make_task_model
from gpt1_scratch.finetuning.reports import (
    describe_run,
    format_table,
    glue_average,
    score,
    summarize,
    write_predictions,
)
from gpt1_scratch.finetuning.tasks import TASKS, Task, find_task
from papers_to_gpt.engine.arguments import parse_settings, read_settings, run_script
from papers_to_gpt.engine.batching import Batch, LengthBucketBatches
from papers_to_gpt.engine.checkpointing import checkpoints_in
from papers_to_gpt.engine.evaluation import map_across_processes
from papers_to_gpt.engine.hardware import FOR_BATCHES_OF_ROWS, keep_compiled_code
from papers_to_gpt.engine.model_folder import check_folder
from papers_to_gpt.engine.optimization import OptimizationSettings
from papers_to_gpt.engine.output_folder import prepare_output_dir
from papers_to_gpt.engine.reporting import RESULTS_FILE, write_results, write_run_record
from papers_to_gpt.engine.training import TokenCounts, Trainer, TrainingSettings, make_accelerator
from papers_to_gpt.publishing.cards import write_card
from papers_to_gpt.publishing.hub import NOTHING_PUSHED
from papers_to_gpt.publishing.sharing import open_repository, push_at_end, push_of_checkpoints

TABLE_FILE = "results.md"


@dataclass
class StartSettings:
    """The model to begin with."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A pre-trained GPT-1, ours or OpenAI's (openai-gpt): folder or Hub id."}
    )
    revision: str | None = None
    from_scratch: bool = field(default=False, metadata={"help": "Its sizes and tokenizer, but weights at random."})
    transferred_layers: int | None = field(
        default=None, metadata={"help": "Blocks, from the first, that keep what they learnt, beside the embeddings."}
    )
    dropout: float | None = field(
        default=None, metadata={"help": "Of embeddings, attention and residuals; default: as in pre-training."}
    )
    classifier_dropout: float = 0.1
    auxiliary_loss_weight: float = field(default=0.5, metadata={"help": "Lambda, the language model's share; 0: off."})

    def __post_init__(self):
        if not self.model_name_or_path:
            raise ValueError("model_name_or_path is not set. Name the folder or Hub id of a pre-trained model.")
        if self.from_scratch and self.transferred_layers is not None:
            raise ValueError("from_scratch and transferred_layers are both set. Set one.")
        for name in ("dropout", "classifier_dropout"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and less than 1.")
        if self.auxiliary_loss_weight < 0:
            raise ValueError(f"auxiliary_loss_weight is {self.auxiliary_loss_weight}; it must not be negative.")

    def of_config(self) -> dict[str, float]:
        """What of it is the configuration's."""
        changes = {name: getattr(self, name) for name in ("classifier_dropout", "auxiliary_loss_weight")}
        if self.dropout is not None:
            changes |= dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), self.dropout)
        return changes


@dataclass
class TaskSettings:
    """What is learnt, from which data, and how it is batched."""

    task: list[str] = field(
        default_factory=list,
        metadata={
            "help": f"One or several of {', '.join(TASKS)}; `stories`: all embedded ones; `all`: those that data_dir "
            "holds, or GLUE's. Leave it out for files of your own."
        },
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "A folder with TASK/train.parquet and so on; default: the Hub."}
    )
    train_file: str | None = field(default=None, metadata={"help": "CSV, TSV, JSON lines or parquet."})
    validation_file: str | None = field(default=None, metadata={"help": "Default: part of train_file."})
    test_file: str | None = field(default=None, metadata={"help": "To predict; scored if it has labels."})
    text_column: str | None = field(default=None, metadata={"help": "Of files of your own; default: found out."})
    text_pair_column: str | None = None
    label_column: str | None = None
    problem_type: Literal["classification", "regression"] | None = field(
        default=None, metadata={"help": "Default: regression if the labels are numbers with a fraction."}
    )
    both_orders: bool | None = field(
        default=None, metadata={"help": "Read a pair in both orders; default: if its label is such a number."}
    )
    validation_share: float = field(default=0.1, metadata={"help": "Of train_file, where there is no other."})
    max_length: int | None = field(
        default=None, metadata={"help": "Tokens, beyond which texts are cut; default: the model's positions."}
    )
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Examples to a batch, on each process."})
    per_device_eval_batch_size: int = 64
    seeds: list[int] = field(
        default_factory=list, metadata={"help": "A run for each, with median and spread; default: the one seed."}
    )

    def __post_init__(self):
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {self.seeds}: one stands there twice.")
        names = self.names()
        if self.train_file is not None and len(names) > 1:
            raise ValueError(
                f"train_file is one task's data, but task names {len(names)}: {', '.join(names)}. Unset task "
                "for a task of your own (--task none), name the one that the file is for, or unset the file "
                "(--train_file none)."
            )
        if names == [None] and self.train_file is None:
            raise ValueError(f"Set train_file, or task to some of {', '.join(TASKS)}.")

    def names(self) -> list[str | None]:
        """The tasks of the table that are asked for; None is that of the reader's own file."""
        groups = {
            "stories": [name for name in TASKS if name.startswith(STORIES)],
            "all": [
                name
                for name, task in TASKS.items()
                if ((Path(self.data_dir) / name).is_dir() if self.data_dir else task.submissions)
            ],
        }
        if "all" in self.task and not groups["all"]:
            raise ValueError(f"task is all, but data_dir {self.data_dir} holds no folder of a known task.")
        names: list[str | None] = []
        for name in self.task:
            names += groups.get(name) or [find_task(name).name]
        return list(dict.fromkeys(names)) or [None]


@dataclass
class FinetuningOptimization(OptimizationSettings):
    """The paper's fine-tuning (section 4.1)."""

    learning_rate: float = 6.25e-5
    weight_decay: float = 0.01
    warmup_steps: float = field(
        default=0.002, metadata={"help": "Updates from 0 to the peak, along a line; below 1: a share of the run's."}
    )


@dataclass
class FinetuningSettings(TrainingSettings):
    """As for every run, but by epochs: the paper's three, each with an evaluation."""

    num_train_epochs: float | None = field(default=3, metadata={"help": "Epochs in all, if max_steps is not set."})
    eval_steps: int | None = field(default=None, metadata={"help": "Updates between evaluations; default: an epoch."})
    metric_for_best_model: str | None = field(default=None, metadata={"help": "Default: the task's first score."})
    project: str = field(
        default="papers-to-gpt-finetuning",
        metadata={"help": "The project that trackers put all runs of a recipe into."},
    )


Settings = tuple[StartSettings, TaskSettings, FinetuningOptimization, FinetuningSettings]


def parse(arguments: list[str] | None = None) -> Settings:
    """Reads preset and command line."""
    parts = (StartSettings, TaskSettings, FinetuningOptimization, FinetuningSettings)
    parsed = parse_settings(read_settings(arguments), *parts, description=__doc__.splitlines()[0])
    _, data, _, training = parsed
    if training.push_to_hub and len(data.names()) > 1:
        raise ValueError(
            "push_to_hub shares one model, but task names several. Leave it out, and share the folders that you want "
            "afterwards: recipes/share.py."
        )
    if training.hub_strategy == "every_save" and len(data.seeds) > 1:
        raise ValueError(
            "hub_strategy is every_save, but there are several seeds: their median run is pushed at the end."
        )
    return parsed


@dataclass(frozen=True)
class TaskData:
    """A task with its tokenised splits, and what all its runs start from."""

    task: Task
    examples: dict[str, TaskExamples]
    tokenizer: PreTrainedTokenizerFast
    backbone: GPT1Model


def main() -> None:
    settings = parse()
    start, data, _, training = settings
    keep_compiled_code(FOR_BATCHES_OF_ROWS)
    accelerator = make_accelerator(training)
    repository = open_repository(accelerator, training)
    output_dir = prepare_output_dir(accelerator, training, settings)
    started = time.perf_counter()
    disable_progress_bars()
    transformers_logging.disable_progress_bar()

    # Data
    with accelerator.main_process_first():
        check_folder(start.model_name_or_path)
        backbone, tokenizer = load_pretrained(start.model_name_or_path, start.revision)
        tasks = [load_data(name, data, backbone, tokenizer, accelerator.print) for name in data.names()]

    # Model, training, evaluation: see `finetune`
    if len(tasks) == 1 and len(data.seeds) < 2:
        (seed,) = data.seeds or [training.seed]
        results = finetune(
            accelerator, tasks[0], settings, output_dir, seed, push_of_checkpoints(repository, training)
        )
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
    accelerator.print(HOW_TO_USE.format(folder=chosen, seconds=results["wall_seconds"]))
    push_at_end(repository, chosen)


HOW_TO_USE = """
Done after {seconds:.0f} s. To use the model in {folder}:

python recipes/classify.py --model_name_or_path {folder} --input_file texts.csv
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
    names = [field.name for field in dataclasses.fields(OwnColumns)]
    task, splits = load_task(
        name,
        train_file=data.train_file,
        validation_file=data.validation_file,
        test_file=data.test_file,
        data_dir=data.data_dir,
        own_columns=OwnColumns(**{name: getattr(data, name) for name in names}),
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


def run_series(tasks: Sequence[TaskData], settings: Settings, output_dir: Path) -> dict[str, dict[str, Any]]:
    """A run for each task and seed, in subfolders; gives each task's summary (see `summarize`)."""
    _, task_settings, _, training = settings
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
    """One of several runs; of a resumed series, one that is finished is only read, and one that is not goes on."""
    start, task_settings, optimization, training = settings
    # Of a series it is the median run that is pushed, once it is known.
    top = Path(training.output_dir)
    run_name = "-".join((training.run_name or top.resolve().name, *folder.relative_to(top).parts))
    training = dataclasses.replace(training, output_dir=str(folder), seed=seed, run_name=run_name, **NOTHING_PUSHED)
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
    settings = (start, task_settings, optimization, training)
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
    start, task_settings, optimization, training = settings
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
    trainer = Trainer(
        accelerator,
        model,
        batches,
        dataclasses.replace(training, seed=seed, metric_for_best_model=metric),
        optimization,
        evaluate=partial(evaluate, data=data, logits_of=logits_of, scores_of=scores_of),
        save_model=save_model,
        after_save=after_save,
        count_tokens=count_examples,
        counted="examples",
    )
    results = trainer.train()

    # Evaluation
    model.eval()
    for split in (*task.validation, *task.test):
        if split in examples:
            logits, labels, suffix = logits_of(model, examples[split]), examples[split].labels, task.suffix(split)
            kind = "test" if split in task.test else "eval"
            if labels is not None:
                results |= {f"{kind}_{name}{suffix}": value for name, value in scores_of(logits, labels).items()}
                if not task.is_regression:
                    matrix = confusion_matrix(labels, logits.argmax(axis=1), len(task.labels))
                    results[f"{kind}_confusion_matrix{suffix}"] = matrix
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
) -> dict[str, float]:
    """Loss and scores on validation."""
    scores = {}
    for split in data.task.validation:
        if split in data.examples:
            part = data.examples[split]
            values = scores_of(logits_of(model, part), part.labels)
            scores |= {f"{name}{data.task.suffix(split)}": value for name, value in values.items()}
    return scores


def count_examples(batch: Batch) -> TokenCounts:
    """The loss is a sum over examples."""
    return TokenCounts(len(batch["labels"]), int(batch["attention_mask"].sum()), batch["input_ids"].numel())


if __name__ == "__main__":
    run_script(main)

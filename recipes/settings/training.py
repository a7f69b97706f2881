"""The settings that every training run has: optimization, length, evaluation and output."""

import difflib
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from papers_to_gpt.settings.arguments import CheckedSettings, option
from papers_to_gpt.settings.expected import Expected

logger = logging.getLogger(__name__)

OUTPUT = "output"

# The seeds that numpy takes: numbers of 32 bits.
SEEDS = {"at_least": 0, "at_most": 2**32 - 1}

# Those that accelerate knows; importing it would import torch.
TRACKERS = "aim clearml comet_ml dvclive mlflow swanlab tensorboard trackio wandb".split()

# Settings that decide where a run computes and what it writes, and not what comes of it.
SETTINGS_WITHOUT_EFFECT = frozenset(
    """output_dir overwrite_output_dir resume_from_checkpoint accept_changes skip_data_check logging_steps save_minutes
    save_total_limit background_checkpoints stop_within_seconds max_skipped_updates dataloader_num_workers report_to
    project run_name use_cpu push_to_hub hub_model_id hub_private_repo hub_strategy overwrite_hub_repo
    per_device_eval_batch_size num_samples sample_prompt_tokens sample_new_tokens temperature top_k""".split()
)


# Words in the names of the scores of which a lower one is better.
LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte")


def is_lower_better(metric: str) -> bool:
    """Returns whether the lower of two scores of a name is the better one."""
    return any(word in metric for word in LOWER_IS_BETTER)


def check_metric(metric: str, reported: Sequence[str]) -> None:
    """Refuses a metric_for_best_model that the evaluation does not report.

    Raises:
        ValueError: names the scores that it does report, and the nearest one.
    """
    if metric not in reported:
        nearest = difflib.get_close_matches(metric.removeprefix("eval_"), reported, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(
            f"metric_for_best_model is {metric!r}, which the evaluation does not report.{hint} It reports "
            f"{', '.join(reported)}."
        )


def warn_of_same_file(data: Any) -> None:
    """Warns if a file to validate or to test on is one to train on: scores then say nothing of unseen data."""
    train = set(map(os.path.realpath, files_of(data, "train_file")))
    for name in ("validation_file", "test_file"):
        if train.intersection(map(os.path.realpath, files_of(data, name))):
            logger.warning("%s is train_file: its scores say nothing about text that the model has not seen.", name)


def files_of(data: Any, name: str) -> list[str]:
    """Returns the files that a setting names: one, several, or none if it is not set or does not exist."""
    value = getattr(data, name, None) or []
    return [value] if isinstance(value, str) else value


@dataclass
class OptimizationSettings(CheckedSettings):
    """How weights change. The defaults are those of `transformers.TrainingArguments` where it has the setting."""

    group = "optimization"

    learning_rate: float = option(
        5e-5, "Peak learning rate; with noam, a factor on the formula of the paper.", above=0
    )
    optim: Literal["adamw", "adam", "sgd", "adadelta", "muon"] = option(
        "adamw", "Optimizer of torch; muon updates the weight matrices of the layers and leaves the rest to AdamW."
    )
    adam_beta1: float = option(
        0.9, "Decay rate of the first moment in adam, adamw and muon's AdamW.", at_least=0, below=1
    )
    adam_beta2: float = option(
        0.999, "Decay rate of the second moment in adam, adamw and muon's AdamW.", at_least=0, below=1
    )
    adam_epsilon: float = option(1e-8, "Term added to the denominator in adam, adamw and muon's AdamW.", at_least=0)
    adadelta_rho: float = option(0.95, "Decay rate of the running averages in adadelta.", at_least=0, at_most=1)
    adadelta_epsilon: float = option(1e-6, "Term added to the denominator in adadelta.", at_least=0)
    weight_decay: float = option(
        0.0,
        "Weight decay of matrices, never of biases and gains; decoupled from the gradient with adamw and muon.",
        at_least=0,
    )
    max_grad_norm: float = option(
        1.0, "Maximum L2 norm of the gradient of an update; 0 turns clipping off.", at_least=0
    )
    lr_scheduler_type: Literal["constant", "linear", "cosine", "inverse_sqrt", "noam", "halving"] = option(
        "linear", "Learning rate schedule after the warmup; linear and cosine reach 0 at the end of the run."
    )
    warmup_steps: float = option(
        0, "Updates of linear warmup from 0 to the peak; a number below 1 is a fraction of the run.", at_least=0
    )
    halving_start_step: int = option(0, "Updates before the first halving, with the schedule halving.", at_least=0)
    halving_every_steps: int = option(0, "Updates between two halvings, with the schedule halving.", at_least=0)

    def __post_init__(self):
        super().__post_init__()
        if self.lr_scheduler_type == "noam" and self.warmup_steps < 1:
            raise ValueError("lr_scheduler_type noam needs warmup_steps of at least 1 (the paper has 4000).")
        if self.lr_scheduler_type == "halving" and self.halving_every_steps < 1:
            raise ValueError("lr_scheduler_type halving needs halving_every_steps of at least 1.")


@dataclass
class TrainingSettings(CheckedSettings):
    """How long a run is, what it writes, and when. Names are those of `transformers.TrainingArguments`."""

    group = "training"

    output_dir: str | None = option(None, "Folder for the model, its scores, logs and checkpoints.", OUTPUT)
    overwrite_output_dir: bool = option(False, "Replace the run that output_dir holds.", OUTPUT)
    resume_from_checkpoint: str | None = option(
        None,
        "Checkpoint folder to resume from, or `last` for the newest one in output_dir; left out, an unfinished run in "
        "output_dir is resumed.",
        OUTPUT,
    )
    accept_changes: bool = option(
        False, "Resume the run in output_dir although its settings, its precision or its data have changed.", OUTPUT
    )
    skip_data_check: bool = option(
        False, "Resume without comparing the data with the data that the run started with.", OUTPUT
    )
    seed: int = option(42, "Seed of the initial weights, the order of the data and dropout.", **SEEDS)
    max_steps: int | None = option(None, "Number of updates; required unless num_train_epochs is set.", at_least=1)
    num_train_epochs: float | None = option(None, "Number of epochs, used if max_steps is not set.", above=0)
    max_train_minutes: float | None = option(None, "Stop after this many minutes of updates and evaluations.", above=0)
    max_skipped_updates: int = option(
        10,
        "Updates in a row that are left out because the loss or its gradient is not finite, before the run stops.",
        at_least=0,
    )
    stop_within_seconds: float | None = option(
        None,
        "Seconds that an update may take to end after SIGTERM or Ctrl-C, before it is given up and the last finished "
        "one is saved; left out, as long as it takes. Several processes give it up before its next batch, and where "
        "they stream their data they finish it.",
        above=0,
    )
    gradient_accumulation_steps: int = option(
        1, "Batches per update on each process; a run resumed on more or fewer processes keeps its sum.", at_least=1
    )
    bf16: bool | None = option(
        None, "Compute in bfloat16 by autocast; left out, it is on where the processor has bfloat16 instructions."
    )
    torch_compile: bool = option(
        False,
        "Compile the model with torch.compile, for all lengths at once, which takes minutes at the start and is kept "
        "for later runs. It is meant for GPUs: on a CPU it takes the place of the models' own fast operations, and "
        "may gain nothing. A function that needs more than 16 versions of its code is not compiled.",
    )
    use_cpu: bool = option(False, "Train on the CPU even if there is an accelerator.")
    logging_steps: int = option(50, "Updates between log lines.", OUTPUT, at_least=1)
    eval_steps: int | None = option(
        500,
        "Updates between evaluations, each of which writes a checkpoint; none evaluates after every epoch.",
        at_least=1,
    )
    save_steps: int | None = option(
        None, "Updates between checkpoints in addition to those that evaluations write.", OUTPUT, at_least=1
    )
    save_minutes: float | None = option(
        15,
        "Minutes after which a checkpoint to resume from is written, if none was; the next checkpoint replaces it. "
        "none leaves it to the updates.",
        OUTPUT,
        above=0,
    )
    save_total_limit: int = option(
        1, "Newest checkpoints to keep in addition to the best one; 0 keeps all.", OUTPUT, at_least=0
    )
    background_checkpoints: bool = option(
        False,
        "Write checkpoints while training continues, from a copy of weights and optimizer state in the CPU's memory "
        "(1.4 GB for 117M parameters with Adam).",
        OUTPUT,
    )
    metric_for_best_model: str = option("loss", "Evaluation score that selects the best checkpoint.")
    early_stopping_patience: int | None = option(
        None, "Stop after this many evaluations in a row without a better score.", at_least=1
    )
    average_last_checkpoints: int = option(
        0, "Number of newest checkpoints whose mean becomes the final model; 0 takes the best checkpoint.", at_least=0
    )
    dataloader_num_workers: int = option(
        0, "Processes that prepare batches; 0 prepares them in the main process.", at_least=0
    )
    report_to: list[str] = option([], f"Trackers that receive the log: some of {', '.join(TRACKERS)}.", OUTPUT)
    project: str = option("papers-to-gpt", "Project in trackers, shared by all runs of a recipe.", OUTPUT)
    run_name: str | None = option(None, "Name of the run in trackers; left out, the name of output_dir.", OUTPUT)
    expected: Expected | None = option(
        None, "Scores that a preset expects, which the end of a run is compared with; none leaves this out.", OUTPUT
    )

    @property
    def same_command(self) -> str:
        """The command that resumes an interrupted run, as messages name it."""
        return "the same command without --overwrite_output_dir" if self.overwrite_output_dir else "the same command"

    def __post_init__(self):
        super().__post_init__()
        if not self.output_dir:
            raise ValueError("output_dir is not set. Name the folder that the run writes to.")
        for name in self.report_to:
            if name not in TRACKERS:
                raise ValueError(f"report_to is {name!r}; it must be some of {', '.join(TRACKERS)}, or none.")
        if self.max_steps is None and self.num_train_epochs is None:
            raise ValueError("Neither max_steps nor num_train_epochs is set. Say how long to train.")
        if self.average_last_checkpoints > self.save_total_limit > 0:
            raise ValueError(
                f"average_last_checkpoints is {self.average_last_checkpoints}, but save_total_limit keeps "
                f"{self.save_total_limit}. Keep at least as many as are averaged."
            )
        intervals = [every for every in (self.eval_steps, self.save_steps) if every]
        written = math.ceil(self.max_steps / min(intervals)) if self.max_steps and intervals else math.inf
        if self.average_last_checkpoints > written:
            raise ValueError(
                f"average_last_checkpoints is {self.average_last_checkpoints}, but a run of {self.max_steps} updates "
                f"with a checkpoint every {min(intervals)} writes {written}. Average fewer, or lower eval_steps or "
                "save_steps."
            )

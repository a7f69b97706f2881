"""The settings that every training run has: optimization, length, evaluation and output."""

import math
from dataclasses import dataclass
from typing import Literal

from papers_to_gpt.settings.arguments import option

OUTPUT = "output"

# Those that accelerate knows; importing it would import torch.
TRACKERS = "aim clearml comet_ml dvclive mlflow swanlab tensorboard trackio wandb".split()


@dataclass
class OptimizationSettings:
    """How weights change. The defaults are those of `transformers.TrainingArguments` where it has the setting."""

    group = "optimization"

    learning_rate: float = option(5e-5, "Peak learning rate; with noam, a factor on the formula of the paper.")
    optim: Literal["adamw", "adam", "sgd", "adadelta", "muon"] = option(
        "adamw", "Optimizer of torch; muon updates the weight matrices of the layers and leaves the rest to AdamW."
    )
    adam_beta1: float = option(0.9, "Decay rate of the first moment in adam, adamw and muon's AdamW.")
    adam_beta2: float = option(0.999, "Decay rate of the second moment in adam, adamw and muon's AdamW.")
    adam_epsilon: float = option(1e-8, "Term added to the denominator in adam, adamw and muon's AdamW.")
    adadelta_rho: float = option(0.95, "Decay rate of the running averages in adadelta.")
    adadelta_epsilon: float = option(1e-6, "Term added to the denominator in adadelta.")
    weight_decay: float = option(
        0.0, "Weight decay of matrices, never of biases and gains; decoupled from the gradient with adamw and muon."
    )
    max_grad_norm: float = option(1.0, "Maximum L2 norm of the gradient of an update; 0 turns clipping off.")
    lr_scheduler_type: Literal["constant", "linear", "cosine", "inverse_sqrt", "noam", "halving"] = option(
        "linear", "Learning rate schedule after the warmup; linear and cosine reach 0 at the end of the run."
    )
    warmup_steps: float = option(
        0, "Updates of linear warmup from 0 to the peak; a number below 1 is a fraction of the run."
    )
    halving_start_step: int = option(0, "Updates before the first halving, with the schedule halving.")
    halving_every_steps: int = option(0, "Updates between two halvings, with the schedule halving.")

    def __post_init__(self):
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be positive.")
        if self.lr_scheduler_type == "noam" and self.warmup_steps < 1:
            raise ValueError("lr_scheduler_type noam needs warmup_steps of at least 1 (the paper has 4000).")
        if self.lr_scheduler_type == "halving" and self.halving_every_steps < 1:
            raise ValueError("lr_scheduler_type halving needs halving_every_steps of at least 1.")
        for name in ("warmup_steps", "halving_start_step", "weight_decay", "max_grad_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative.")


@dataclass
class TrainingSettings:
    """How long a run is, what it writes, and when. Names are those of `transformers.TrainingArguments`."""

    group = "training"

    output_dir: str | None = option(None, "Folder for the model, its scores, logs and checkpoints.", OUTPUT)
    overwrite_output_dir: bool = option(False, "Replace the run that output_dir holds.", OUTPUT)
    resume_from_checkpoint: str | None = option(
        None, "Checkpoint folder to resume from, or `last` for the newest one in output_dir.", OUTPUT
    )
    seed: int = option(42, "Seed of the initial weights, the order of the data and dropout.")
    max_steps: int | None = option(None, "Number of updates; required unless num_train_epochs is set.")
    num_train_epochs: float | None = option(None, "Number of epochs, used if max_steps is not set.")
    max_train_minutes: float | None = option(None, "Stop after this many minutes of updates and evaluations.")
    gradient_accumulation_steps: int = option(1, "Batches per update on each process.")
    bf16: bool | None = option(
        None, "Compute in bfloat16 by autocast; left out, it is on where the processor has bfloat16 instructions."
    )
    use_cpu: bool = option(False, "Train on the CPU even if there is an accelerator.")
    logging_steps: int = option(50, "Updates between log lines.", OUTPUT)
    eval_steps: int | None = option(
        500, "Updates between evaluations, each of which writes a checkpoint; none evaluates after every epoch."
    )
    save_steps: int | None = option(
        None, "Updates between checkpoints in addition to those that evaluations write.", OUTPUT
    )
    save_total_limit: int = option(1, "Newest checkpoints to keep in addition to the best one; 0 keeps all.", OUTPUT)
    metric_for_best_model: str = option("loss", "Evaluation score that selects the best checkpoint.")
    early_stopping_patience: int | None = option(
        None, "Stop after this many evaluations in a row without a better score."
    )
    average_last_checkpoints: int = option(
        0, "Number of newest checkpoints whose mean becomes the final model; 0 takes the best checkpoint."
    )
    dataloader_num_workers: int = option(0, "Processes that prepare batches; 0 prepares them in the main process.")
    report_to: list[str] = option([], f"Trackers that receive the log: some of {', '.join(TRACKERS)}.", OUTPUT)
    project: str = option("papers-to-gpt", "Project in trackers, shared by all runs of a recipe.", OUTPUT)
    run_name: str | None = option(None, "Name of the run in trackers; left out, the name of output_dir.", OUTPUT)

    def __post_init__(self):
        if not self.output_dir:
            raise ValueError("output_dir is not set. Name the folder that the run writes to.")
        for name in self.report_to:
            if name not in TRACKERS:
                raise ValueError(f"report_to is {name!r}; it must be some of {', '.join(TRACKERS)}, or none.")
        if self.max_steps is None and self.num_train_epochs is None:
            raise ValueError("Neither max_steps nor num_train_epochs is set. Say how long to train.")
        for name in ("max_steps", "num_train_epochs", "max_train_minutes", "save_steps", "early_stopping_patience"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be positive.")
        for name in ("gradient_accumulation_steps", "logging_steps", "eval_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
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
                f"with a checkpoint every {min(intervals)} writes {written}."
            )

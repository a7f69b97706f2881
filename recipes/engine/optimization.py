"""Optimizers and learning rates. Schedules count optimizer updates, starting at 1."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn


@dataclass
class OptimizationSettings:
    """How weights change. The defaults are those of `transformers.TrainingArguments` where it has the setting."""

    learning_rate: float = field(default=5e-5, metadata={"help": "The peak; a factor on the formula for noam."})
    optim: Literal["adamw", "adam", "sgd", "adadelta"] = field(
        default="adamw", metadata={"help": "Plain torch optimizers, fused where torch has a fused kernel."}
    )
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    adadelta_rho: float = 0.95
    adadelta_epsilon: float = 1e-6
    weight_decay: float = field(
        default=0.0, metadata={"help": "Applied to matrices only; decoupled from the gradient with adamw."}
    )
    max_grad_norm: float = field(default=1.0, metadata={"help": "Largest L2 norm of an update's gradient; 0 is off."})
    lr_scheduler_type: Literal["constant", "linear", "cosine", "inverse_sqrt", "noam", "halving"] = "linear"
    warmup_steps: float = field(
        default=0, metadata={"help": "Updates from 0 to the peak, along a line; below 1: a share of the run's."}
    )
    halving_start_step: int = field(default=0, metadata={"help": "halving: updates before the first halving."})
    halving_every_steps: int = field(default=0, metadata={"help": "halving: updates between halvings."})

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


def make_optimizer(model: nn.Module, settings: OptimizationSettings) -> torch.optim.Optimizer:
    """The optimizer over all trainable parameters, in two groups: matrices decay, biases and gains do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    learning_rate = settings.learning_rate
    if settings.optim in ("adamw", "adam"):
        optimizer_class = torch.optim.AdamW if settings.optim == "adamw" else torch.optim.Adam
        betas = (settings.adam_beta1, settings.adam_beta2)
        return optimizer_class(groups, lr=learning_rate, betas=betas, eps=settings.adam_epsilon, fused=True)
    if settings.optim == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, fused=True)
    return torch.optim.Adadelta(
        groups, lr=learning_rate, rho=settings.adadelta_rho, eps=settings.adadelta_epsilon, foreach=True
    )


def make_schedule(
    settings: OptimizationSettings, total_updates: int | None, model_size: int | None = None
) -> Callable[[int], float]:
    """The learning rate as a function of the update, which is all the state that a schedule here has.

    Args:
        settings: names the schedule and its numbers.
        total_updates: the run's length, at which linear and cosine reach zero.
        model_size: d_model of the noam formula.

    Raises:
        ValueError: linear or cosine without a known length of the run; noam without a model size.
    """
    peak, warmup, kind = settings.learning_rate, settings.warmup_steps, settings.lr_scheduler_type
    if 0 < warmup < 1:
        if total_updates is None:
            raise ValueError(f"warmup_steps is {warmup}, a share of a run whose length is not known. Set max_steps.")
        warmup = math.ceil(warmup * total_updates)
    if kind in ("linear", "cosine") and total_updates is None:
        raise ValueError(
            f"lr_scheduler_type {kind} ends with the run, so it needs max_steps, or num_train_epochs and data of a "
            "known size. Set max_steps, or choose constant or inverse_sqrt."
        )
    if kind == "noam" and model_size is None:
        raise ValueError("lr_scheduler_type noam needs a model with a hidden size.")

    def after_warmup(update: int) -> float:
        if kind in ("linear", "cosine"):
            progress = min(1.0, (update - warmup) / max(1, total_updates - warmup))
            return 1 - progress if kind == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        if kind == "inverse_sqrt":
            return math.sqrt(max(1, warmup) / update)
        if kind == "halving":
            # Sutskever et al. 2014, section 3.4: after 5 epochs, halved every half epoch.
            late = update - 1 - settings.halving_start_step
            return 1.0 if late < 0 else 0.5 ** (late // settings.halving_every_steps + 1)
        return 1.0

    def learning_rate(update: int) -> float:
        if kind == "noam":
            # Vaswani et al. 2017, equation 3.
            return peak * model_size**-0.5 * min(update**-0.5, update * warmup**-1.5)
        return peak * (update / warmup if update <= warmup else after_warmup(update))

    return learning_rate

"""Optimizers and learning rates. Schedules count optimizer updates, starting at 1."""

import math
from collections.abc import Callable

import torch
from torch import nn

from papers_to_gpt.settings.training import OptimizationSettings


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` for some matrices, AdamW for all else, as one optimizer.

    Muon (Jordan et al. 2024) turns the momentum of a matrix into the nearest one whose singular values are all alike,
    so that no direction of a layer is learnt faster than another. Its steps are scaled to the size of AdamW's (Liu et
    al. 2025, section 2.2): one learning rate serves both.

    Args:
        matrices: groups of parameters for Muon, with their `weight_decay`.
        others: groups for AdamW.
        settings: rates and momenta.
    """

    def __init__(self, matrices: list[dict], others: list[dict], settings: OptimizationSettings):
        rate, betas = settings.learning_rate, (settings.adam_beta1, settings.adam_beta2)
        self.parts = [
            torch.optim.Muon(matrices, lr=rate, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rate, betas=betas, eps=settings.adam_epsilon, fused=True),
        ]
        super().__init__(self._groups(), {})

    def _groups(self) -> list[dict]:
        """The parts' own, so that a rate set in them here is set there."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self, closure: None = None) -> None:
        """One update of all parameters; no closure is taken."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = self._groups()


def make_optimizer(model: nn.Module, settings: OptimizationSettings) -> torch.optim.Optimizer:
    """The optimizer over all trainable parameters, in groups: matrices decay, biases and gains do not.

    Raises:
        ValueError: muon for a model that has no matrix beside its embeddings.
    """
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
    if settings.optim == "muon":
        tables = {id(table) for table in vocabulary_tables(model)}
        chosen = [p for p in parameters if p.ndim == 2 and id(p) not in tables]
        if not chosen:
            raise ValueError("optim is muon, but the model has no matrix beside its embeddings. Choose adamw.")
        ids = {id(p) for p in chosen}
        others = [group | {"params": [p for p in group["params"] if id(p) not in ids]} for group in groups]
        return Muon([{"params": chosen, "weight_decay": settings.weight_decay}], others, settings)
    if settings.optim == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, fused=True)
    return torch.optim.Adadelta(
        groups, lr=learning_rate, rho=settings.adadelta_rho, eps=settings.adadelta_epsilon, foreach=True
    )


def vocabulary_tables(model: nn.Module) -> list[nn.Parameter]:
    """Embeddings, and the softmax of a language model: a row of these is met with its token alone."""
    modules = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    softmax = getattr(model, "get_output_embeddings", lambda: None)()
    return [module.weight for module in (*modules, softmax) if module is not None]


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

"""Optimizers and learning-rate schedules. Schedules count updates from 1."""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from papers_to_gpt.settings.training import OptimizationSettings


class Muon(torch.optim.Optimizer):
    """One optimizer that applies `torch.optim.Muon` to matrices and AdamW to all other parameters.

    Muon (Jordan et al. 2024) replaces the momentum of a matrix by the nearest matrix with equal singular values,
    so that a layer learns all directions at the same rate. Its steps are scaled to the size of AdamW's (Liu et al.
    2025, section 2.2), so that both use the same learning rate.

    Args:
        matrices: groups of parameters for Muon, each with its `weight_decay`.
        others: groups of parameters for AdamW, each with its `weight_decay`.
        settings: the learning rate and the momenta.
    """

    def __init__(self, matrices: list[dict], others: list[dict], settings: OptimizationSettings):
        rate, betas = settings.learning_rate, (settings.adam_beta1, settings.adam_beta2)
        self.parts = [
            torch.optim.Muon(matrices, lr=rate, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rate, betas=betas, eps=settings.adam_epsilon, fused=True),
        ]
        super().__init__(self._groups(), {})

    def _groups(self) -> list[dict]:
        """Returns the groups of the parts themselves, so that a learning rate set in them takes effect there."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self, closure: None = None) -> None:
        """Updates all parameters. Closures are not supported."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = self._groups()


def make_optimizer(model: nn.Module, settings: OptimizationSettings) -> torch.optim.Optimizer:
    """Creates the optimizer of all trainable parameters. Weight decay applies to matrices, not to biases and gains.

    Raises:
        ValueError: if `optim` is muon and the model has no matrix besides its embeddings.
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
            raise ValueError("optim is muon, but the model has no matrix besides its embeddings. Set optim to adamw.")
        ids = {id(p) for p in chosen}
        others = [group | {"params": [p for p in group["params"] if id(p) not in ids]} for group in groups]
        return Muon([{"params": chosen, "weight_decay": settings.weight_decay}], others, settings)
    if settings.optim == "sgd":
        # torch has no fused SGD of parameters that are split among processes.
        split = any(isinstance(parameter, DTensor) for parameter in parameters)
        return torch.optim.SGD(groups, lr=learning_rate, fused=not split)
    return torch.optim.Adadelta(
        groups, lr=learning_rate, rho=settings.adadelta_rho, eps=settings.adadelta_epsilon, foreach=True
    )


def vocabulary_tables(model: nn.Module) -> list[nn.Parameter]:
    """Returns the embeddings and the softmax matrix of a model.

    Muon is not applied to them: each of their rows belongs to one token, and only that token's gradient reaches it.
    """
    modules = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    softmax = getattr(model, "get_output_embeddings", lambda: None)()
    return [module.weight for module in (*modules, softmax) if module is not None]


def make_schedule(
    settings: OptimizationSettings, total_updates: int | None, model_size: int | None = None
) -> Callable[[int], float]:
    """Returns the learning rate as a function of the update. A schedule has no other state.

    Args:
        settings: the schedule and its parameters.
        total_updates: the length of the run, at whose end linear and cosine reach zero; None if it is not known.
        model_size: d_model in the formula of noam.

    Raises:
        ValueError: if the schedule, or a warmup given as a share, needs the length of the run and it is not known, or
            if noam has no model size.
    """
    peak, warmup, kind = settings.learning_rate, settings.warmup_steps, settings.lr_scheduler_type
    if 0 < warmup < 1:
        if total_updates is None:
            raise ValueError(f"warmup_steps is {warmup}, a share of a run of unknown length. Set max_steps.")
        warmup = math.ceil(warmup * total_updates)
    if kind in ("linear", "cosine") and total_updates is None:
        raise ValueError(
            f"lr_scheduler_type is {kind}, which ends with the run, so it needs max_steps, or num_train_epochs and "
            "data of known size. Set max_steps, or set lr_scheduler_type to constant or inverse_sqrt."
        )
    if kind == "noam" and model_size is None:
        raise ValueError(
            "lr_scheduler_type is noam, which needs a model with a hidden_size. Set it to inverse_sqrt, which differs "
            "from noam by a constant factor only."
        )

    def after_warmup(update: int) -> float:
        if kind in ("linear", "cosine"):
            progress = min(1.0, (update - warmup) / max(1, total_updates - warmup))
            return 1 - progress if kind == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        if kind == "inverse_sqrt":
            return math.sqrt(max(1, warmup) / update)
        if kind == "halving":
            # Sutskever et al. 2014, section 3.4: after 5 epochs, the rate is halved every half epoch.
            late = update - 1 - settings.halving_start_step
            return 1.0 if late < 0 else 0.5 ** (late // settings.halving_every_steps + 1)
        return 1.0

    def learning_rate(update: int) -> float:
        if kind == "noam":
            # Vaswani et al. 2017, equation 3.
            return peak * model_size**-0.5 * min(update**-0.5, update * warmup**-1.5)
        return peak * (update / warmup if update <= warmup else after_warmup(update))

    return learning_rate

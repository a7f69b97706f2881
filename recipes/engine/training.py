"""The training loop of every recipe.

One update reads its batches, counts the tokens to predict over all of them and all processes, and lets each batch add
the gradient of its summed loss divided by that count. So accumulation and more processes change the memory and the
time of an update, and not its gradient. Everything counts updates: schedule, log, evaluation, checkpoints, limits.
"""

import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import PreTrainedModel

from papers_to_gpt.engine.batching import Batch
from papers_to_gpt.engine.checkpoint_writer import CheckpointWriter
from papers_to_gpt.engine.checkpointing import (
    Progress,
    average_weights,
    check_checkpoint,
    checkpoints_in,
    find_good_checkpoint,
    load_checkpoint,
    load_weights,
)
from papers_to_gpt.engine.durable_files import clean_leftovers, files_written_aside
from papers_to_gpt.engine.hardware import processor_has_bf16
from papers_to_gpt.engine.memory import keep_freed_memory, return_freed_memory
from papers_to_gpt.engine.optimization import make_optimizer, make_schedule
from papers_to_gpt.engine.reporting import Reporter, check_trackers
from papers_to_gpt.settings.training import OptimizationSettings, TrainingSettings, check_metric

logger = logging.getLogger(__name__)

IGNORE_INDEX = -100

# Costs nothing that can be measured, and keeps a process from holding more than about twice what it uses.
UPDATES_BETWEEN_TRIMS = 10


class TrainBatches(Protocol):
    """What the loop reads: this process's batches, reproducible epoch by epoch (see `engine/batching.py`)."""

    batches_per_epoch: int | None

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class TokenCounts:
    """Counts of a batch: tokens to predict, tokens that are not padding, and slots in its tensors."""

    target_tokens: int
    tokens: int
    slots: int


def count_tokens(batch: Batch) -> TokenCounts:
    """The counts of a batch with `labels`, `input_ids` and, where it is padded, `attention_mask`."""
    targets = int((batch["labels"] != IGNORE_INDEX).sum())
    mask = batch.get("attention_mask")
    inputs = batch["input_ids"].numel() if mask is None else int(mask.sum())
    return TokenCounts(targets, targets + inputs, batch["labels"].numel() + batch["input_ids"].numel())


def make_accelerator(settings: TrainingSettings) -> Accelerator:
    """The accelerator of a run. What `accelerate launch` was told goes before the guess about bf16.

    Raises:
        ValueError: a tracker of report_to is not installed.
    """
    check_trackers(settings.report_to)
    keep_freed_memory()
    bf16 = processor_has_bf16(settings.use_cpu) if settings.bf16 is None else settings.bf16
    chosen_at_launch = settings.bf16 is None and "ACCELERATE_MIXED_PRECISION" in os.environ
    return Accelerator(
        cpu=settings.use_cpu,
        mixed_precision=None if chosen_at_launch else "bf16" if bf16 else "no",
        log_with=settings.report_to or None,
        project_dir=settings.output_dir,
    )


def checkpoint_to_resume(settings: TrainingSettings, model: PreTrainedModel | None = None) -> Path | None:
    """The checkpoint that resume_from_checkpoint names, or None for a run that starts anew.

    Args:
        settings: of the run.
        model: if given, its weights must have the names and shapes of the checkpoint's.

    Raises:
        ValueError: if there is none, or the one that is named is damaged.
    """
    name = settings.resume_from_checkpoint
    if not name:
        return None
    if name != "last":
        if not Path(name).is_dir():
            raise ValueError(f"resume_from_checkpoint is {name!r}, which is not a folder.")
        check_checkpoint(Path(name), model)
        return Path(name)
    checkpoint, skipped = find_good_checkpoint(settings.output_dir, model)
    if checkpoint is None:
        reason = " ".join([f"{settings.output_dir} holds no checkpoint to resume from.", *skipped])
        raise ValueError(f"resume_from_checkpoint is last, but {reason}")
    if model is not None:  # the loop asks last; recipes have asked for the tokenizer's folder before
        for sentence in skipped:
            logger.warning(sentence)
    return checkpoint


class TrainingLoop:
    """Trains one model from its first update, or from a checkpoint, to its last.

    Args:
        accelerator: from `make_accelerator`.
        model: its forward takes a batch's tensors, `num_items_in_batch` and loss_arguments, and returns a `loss`
            summed over the tokens to predict and divided by `num_items_in_batch`.
        batches: of this process.
        settings, optimization: see there.
        evaluate: from the model (in evaluation mode, on every process) to scores, the same on every process.
        save_model: writes the shareable model to a folder, with the weights in `state_dict` if it is not None;
            called on the main process, with background_checkpoints by a thread.
        count_tokens: for losses that do not predict every label.
        counted: what the loss is a sum over and `TokenCounts.target_tokens` counts; names the rates.
        loss_arguments: passed to the model's forward in training.
        rates: further values for the log line, from what is counted per second.
        after_save: called with every new checkpoint's folder on the main process, with background_checkpoints by a
            thread; must not keep training waiting.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: PreTrainedModel,
        batches: TrainBatches,
        settings: TrainingSettings,
        optimization: OptimizationSettings,
        *,
        evaluate: Callable[[PreTrainedModel], dict[str, float]],
        save_model: Callable[..., None],
        count_tokens: Callable[[Batch], TokenCounts] = count_tokens,
        counted: str = "target_tokens",
        loss_arguments: dict[str, Any] | None = None,
        rates: Callable[[float], dict[str, float]] = lambda tokens_per_second: {},
        after_save: Callable[[Path], None] | None = None,
    ):
        self.accelerator, self.batches, self.settings = accelerator, batches, settings
        self.evaluate, self.save_model, self.count_tokens = evaluate, save_model, count_tokens
        self.counted = counted
        self.max_grad_norm, self.loss_arguments = optimization.max_grad_norm, loss_arguments or {}
        self.rates = rates
        self.output_dir = Path(settings.output_dir)
        self.total_updates, self.eval_steps = settings.max_steps, settings.eval_steps
        if batches.batches_per_epoch is not None:
            updates_per_epoch = math.ceil(batches.batches_per_epoch / settings.gradient_accumulation_steps)
            self.eval_steps = self.eval_steps or updates_per_epoch
            if self.total_updates is None:
                self.total_updates = max(1, round(settings.num_train_epochs * updates_per_epoch))
        if self.total_updates is None:
            raise ValueError("The data's size is not known, so num_train_epochs cannot end the run. Set max_steps.")
        if self.eval_steps is None:
            raise ValueError(
                "The data's size is not known, so an epoch cannot be evaluated at its end. Set eval_steps."
            )
        model_size = getattr(model.config, "hidden_size", None)
        self.learning_rate = make_schedule(optimization, self.total_updates, model_size)
        self.raw_model = model
        self.model, self.optimizer = accelerator.prepare(model, make_optimizer(model, optimization))
        self.progress = Progress()
        self.writer = CheckpointWriter(
            accelerator,
            self.output_dir,
            model,
            self.optimizer,
            save_model,
            settings.save_total_limit,
            background=settings.background_checkpoints,
            after_save=after_save,
        )

    def train(self) -> dict[str, Any]:
        """Runs all updates and leaves the final model in `output_dir`.

        Returns:
            What the run cost and its best score, for `all_results.json`.

        Raises:
            ValueError: if the loss is not finite; checkpoints written before stay as they are.
            KeyboardInterrupt: says how to go on.
        """
        # Dropout differs between processes; everything before this line was drawn alike on all of them.
        set_seed(self.settings.seed, device_specific=True)
        if self.accelerator.is_main_process:
            clean_leftovers(self.output_dir)
        self.accelerator.wait_for_everyone()
        checkpoint = checkpoint_to_resume(self.settings, self.raw_model)
        if checkpoint is not None:
            self.progress = load_checkpoint(checkpoint, self.raw_model, self.optimizer)
        reporter = Reporter(
            self.accelerator,
            self.output_dir,
            self.total_updates,
            self.progress.update,
            project=self.settings.project,
            run_name=self.settings.run_name,
        )
        self._started = time.perf_counter() - self.progress.elapsed_seconds
        try:
            self._run(reporter)
            self.writer.wait()
            return self._finish(reporter)
        except KeyboardInterrupt:
            self.writer.join()
            raise KeyboardInterrupt(self._how_to_go_on()) from None
        finally:
            self.writer.join()
            reporter.close()

    def _run(self, reporter: Reporter) -> None:
        settings, progress = self.settings, self.progress
        window = LogWindow()
        updates = self._updates()
        out_of_time = False
        while progress.update < self.total_updates and not (out_of_time or self._out_of_patience()):
            started = time.perf_counter()
            group = next(updates)
            loss, gradient_norm, counts = self._update(group)
            window.add(loss, gradient_norm, counts)
            reporter.advance()
            out_of_time = self._out_of_time()
            last = progress.update == self.total_updates or out_of_time
            log, evaluate, save = (
                every is not None and (last or progress.update % every == 0)
                for every in (settings.logging_steps, self.eval_steps, settings.save_steps)
            )
            if log or evaluate or save:
                self._check_finite(window)
            if progress.update % UPDATES_BETWEEN_TRIMS == 0 or evaluate:
                return_freed_memory()
            seconds = time.perf_counter() - started
            window.seconds += seconds
            progress.train_seconds += seconds
            if log:
                values = window.values(self.accelerator, self.counted)
                values["learning_rate"] = self.learning_rate(progress.update)
                reporter.log(progress.update, values | self.rates(values[f"{self.counted}_per_second"]), "train")
                window = LogWindow()
            if evaluate:
                self._evaluate(reporter)
            if evaluate or save:
                reporter.flush()
                self._save()

    def _updates(self) -> Iterator[list[Batch]]:
        """The batches of one update after another, from where the run stands."""
        progress = self.progress
        while True:
            batches = self.batches.epoch(progress.epoch, skip=progress.batches_in_epoch)
            while group := list(itertools.islice(batches, self.settings.gradient_accumulation_steps)):
                progress.batches_in_epoch += len(group)
                yield group
            if progress.batches_in_epoch == 0:
                raise ValueError("The training data gave no batch.")
            progress.epoch, progress.batches_in_epoch = progress.epoch + 1, 0

    def _update(self, group: list[Batch]) -> tuple[torch.Tensor, torch.Tensor, list[TokenCounts]]:
        accelerator = self.accelerator
        self.model.train()
        counts = [self.count_tokens(batch) for batch in group]
        targets = torch.tensor(sum(count.target_tokens for count in counts), device=accelerator.device)
        targets = accelerator.reduce(targets, "sum")  # of this update, over all processes
        self.progress.target_tokens += int(targets)
        total_loss = torch.zeros((), device=accelerator.device)
        for position, batch in enumerate(group):
            batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
            # Gradients travel between processes once an update, with its last batch.
            is_last = position == len(group) - 1
            with nullcontext() if is_last else accelerator.no_sync(self.model):
                loss = self.model(**batch, num_items_in_batch=targets, **self.loss_arguments).loss
                # Distributed training averages gradients over processes; the gradient here is their sum.
                accelerator.backward(loss * accelerator.num_processes)
            total_loss += loss.detach()
        # A bound of infinity clips nothing and still measures the norm.
        norm = accelerator.clip_grad_norm_(self.model.parameters(), self.max_grad_norm or math.inf)
        self.progress.update += 1
        for parameter_group in self.optimizer.param_groups:
            parameter_group["lr"] = self.learning_rate(self.progress.update)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total_loss * targets, norm.detach(), counts

    def _evaluate(self, reporter: Reporter) -> None:
        settings, progress = self.settings, self.progress
        scores = self.scores(self.raw_model)
        metric = settings.metric_for_best_model
        check_metric(metric, [name for name, value in scores.items() if isinstance(value, int | float)])
        better_when_lower = metric in ("loss", "perplexity")
        previous = progress.best_score
        if previous is None or (scores[metric] < previous if better_when_lower else scores[metric] > previous):
            progress.best_score, progress.best_update = scores[metric], progress.update
            progress.evaluations_without_improvement = 0
        else:
            progress.evaluations_without_improvement += 1
        reporter.log(progress.update, scores, "eval")

    def scores(self, model: PreTrainedModel) -> dict[str, float]:
        """The evaluation of a model as it is now; what it draws at random leaves training's generator alone."""
        model.eval()
        with torch.no_grad(), torch.random.fork_rng():
            return self.evaluate(model)

    def _save(self) -> None:
        self.progress.elapsed_seconds = time.perf_counter() - self._started
        self.writer.save(self.progress)

    def _how_to_go_on(self) -> str:
        """What an interrupted run has left."""
        checkpoints = checkpoints_in(self.output_dir)
        if not checkpoints:
            return f"Interrupted at update {self.progress.update}, before the first checkpoint."
        return (
            f"Interrupted at update {self.progress.update}. Run the same command with --resume_from_checkpoint last "
            f"to go on from {checkpoints[-1]}."
        )

    def _out_of_patience(self) -> bool:
        patience = self.settings.early_stopping_patience
        return patience is not None and self.progress.evaluations_without_improvement >= patience

    def _out_of_time(self) -> bool:
        limit = self.settings.max_train_minutes
        if limit is None:
            return False
        # The main process's clock decides for all, or some would wait for others that have stopped.
        out = torch.tensor(time.perf_counter() - self._started > 60 * limit, device=self.accelerator.device)
        return bool(torch.any(self.accelerator.gather(out[None])))

    def _check_finite(self, window: "LogWindow") -> None:
        if not window.is_finite():
            raise ValueError(
                f"The loss or its gradient is not finite at update {self.progress.update} or up to "
                f"{window.updates - 1} updates before. Checkpoints in {self.output_dir} are from before. Lower "
                "learning_rate, raise warmup_steps, or lower max_grad_norm."
            )

    def _finish(self, reporter: Reporter) -> dict[str, Any]:
        """Puts the final weights into the model and its folder."""
        progress, results = self.progress, {}
        if self.settings.average_last_checkpoints:
            checkpoints = checkpoints_in(self.output_dir)[-self.settings.average_last_checkpoints :]
            if self.accelerator.is_main_process:
                rename_old_keys = getattr(self.raw_model, "rename_old_keys", dict)  # a model of any kind trains here
                average_weights(checkpoints, self.output_dir, rename_old_keys)
            self.accelerator.wait_for_everyone()
            load_weights(self.raw_model, self.output_dir)
            results["averaged_checkpoints"] = [checkpoint.name for checkpoint in checkpoints]
        else:
            load_weights(self.raw_model, self.output_dir / f"checkpoint-{progress.best_update}")
        if self.accelerator.is_main_process:
            with files_written_aside(self.output_dir) as folder:
                self.save_model(folder)
        self.accelerator.wait_for_everyone()
        return results | {
            "train_updates": progress.update,
            "train_epochs": progress.epoch,
            f"train_{self.counted}": progress.target_tokens,
            "train_seconds": round(progress.train_seconds, 1),
            f"train_{self.counted}_per_second": round(progress.target_tokens / max(progress.train_seconds, 1e-9), 1),
            "best_update": progress.best_update,
            f"best_{self.settings.metric_for_best_model}": progress.best_score,
        }


class LogWindow:
    """The updates since the last log line. Losses stay on the device until they are asked for."""

    def __init__(self):
        self.losses: list[torch.Tensor] = []
        self.norms: list[torch.Tensor] = []
        self.target_tokens = self.tokens = self.slots = 0
        self.seconds = 0.0

    @property
    def updates(self) -> int:
        return len(self.losses)

    def add(self, loss: torch.Tensor, norm: torch.Tensor, counts: list[TokenCounts]) -> None:
        self.losses.append(loss)
        self.norms.append(norm)
        self.target_tokens += sum(count.target_tokens for count in counts)
        self.tokens += sum(count.tokens for count in counts)
        self.slots += sum(count.slots for count in counts)

    def is_finite(self) -> bool:
        return not self.losses or bool(torch.stack([*self.losses, *self.norms]).isfinite().all())

    def values(self, accelerator: Accelerator, counted: str) -> dict[str, float]:
        """Sums over processes turned into means and rates."""
        sums = torch.tensor(
            [float(torch.stack(self.losses).sum()), self.target_tokens, self.tokens, self.slots],
            dtype=torch.float64 if accelerator.device.type == "cpu" else torch.float32,
            device=accelerator.device,
        )
        loss, target_tokens, tokens, slots = accelerator.reduce(sums, "sum").tolist()
        return {
            "loss": loss / target_tokens,
            "gradient_norm": float(torch.stack(self.norms).mean()),
            f"{counted}_per_second": target_tokens / self.seconds,
            "padding_percent": 100 * (1 - tokens / slots),
        }

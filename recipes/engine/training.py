"""The training loop of every recipe.

One update reads its batches, counts the tokens to predict over all of them and all processes, and lets each batch add
the gradient of its summed loss divided by that count. So accumulation and more processes change the memory and the
time of an update, and not its gradient. Everything counts updates: schedule, log, evaluation, checkpoints, limits.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from papers_to_gpt.engine.batching import Batch, LocalBatch, naming_lost_workers
from papers_to_gpt.engine.checkpoint_writer import CheckpointWriter
from papers_to_gpt.engine.checkpointing import (
    Progress,
    all_checkpoints_in,
    load_checkpoint,
)
from papers_to_gpt.engine.compiling import compile_model
from papers_to_gpt.engine.device_copies import send, send_batch
from papers_to_gpt.engine.durable_files import clean_leftovers, files_written_aside
from papers_to_gpt.engine.evaluation import is_any_true
from papers_to_gpt.engine.final_model import load_final_weights
from papers_to_gpt.engine.launching import is_sharded
from papers_to_gpt.engine.log_window import LogWindow, TokenCounts, count_tokens
from papers_to_gpt.engine.memory import return_freed_memory
from papers_to_gpt.engine.optimization import make_optimizer, make_schedule
from papers_to_gpt.engine.output_folder import checkpoint_to_resume
from papers_to_gpt.engine.process_watch import LIMIT_WHILE_TRAINING, leave_together, limit_waiting, note_progress
from papers_to_gpt.engine.random_streams import seed_generators
from papers_to_gpt.engine.reporting import Reporter
from papers_to_gpt.engine.run_lock import on_main_process
from papers_to_gpt.engine.sharding import Sharding, whole_tensor
from papers_to_gpt.engine.skipped_updates import SkippedUpdates
from papers_to_gpt.engine.stopping import StopRequested, StopSignals, interruptible
from papers_to_gpt.engine.update_errors import naming_lack_of_memory
from papers_to_gpt.settings.training import OptimizationSettings, TrainingSettings, check_metric, is_lower_better

# Costs nothing that can be measured, and keeps a process from holding more than about twice what it uses.
UPDATES_BETWEEN_TRIMS = 10


@dataclass(frozen=True)
class Wishes:
    """What any process wants after an update.

    Attributes:
        stop: to stop, because of a signal.
        save: to save, because the last checkpoint is `save_minutes` old.
        out_of_time: to end the run, because `max_train_minutes` are over.
    """

    stop: bool = False
    save: bool = False
    out_of_time: bool = False


class TrainBatches(Protocol):
    """What the loop reads: this process's batches of each update, reproducible by epoch (see `engine/batching.py`).

    `state_dict` is what JSON can hold of the position behind the update given last, where skipping updates would not
    find it again (see `engine/streaming.py`).
    """

    def updates_per_epoch(self, batches_per_update: int) -> int | None: ...

    def updates(
        self, epoch: int, batches_per_update: int, skip: int = 0, state: Any = None
    ) -> Iterator[list[LocalBatch]]: ...

    def state_dict(self) -> Any: ...


class TrainingLoop:
    """Trains one model from its first update, or from a checkpoint, to its last.

    Args:
        accelerator: from `make_accelerator`.
        model: its forward takes a batch's tensors, `num_items_in_batch` and loss_arguments, and returns a `loss`
            summed over the tokens to predict and divided by `num_items_in_batch`.
        batches: the updates' batches of this process.
        settings, optimization: the settings of the run.
        evaluate: function from the model (in evaluation mode, on every process) to scores, the same on every process.
        save_model: writes the shareable model to a folder, with the weights in `state_dict` if it is not None;
            called on the main process, with background_checkpoints by a thread.
        count_tokens: function that counts a batch. Override it for a loss that does not predict every label.
        counted: name of what the loss is a sum over and `TokenCounts.target_tokens` counts.
        loss_arguments: passed to the model's forward in training. With `class_weights`, `count_tokens` also sums the
            weights of a batch, and forward gets their sum over the update as `class_weight_in_batch`.
        labels_per_target: labels of each target, by whose number in the update the model divides its loss.
        rates: function from what is counted per second to further values for the log line.
        draw_targets: function from a batch to the batch with targets that it draws at random; the generators are
            seeded by the update and the batch's index. Default: the batches have their targets.
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
        labels_per_target: int = 1,
        rates: Callable[[float], dict[str, float]] = lambda tokens_per_second: {},
        draw_targets: Callable[[Batch], Batch] | None = None,
        after_save: Callable[[Path], None] | None = None,
    ):
        self.accelerator, self.batches, self.settings = accelerator, batches, settings
        self.evaluate, self.save_model, self.count_tokens = evaluate, save_model, count_tokens
        self.max_grad_norm, self.loss_arguments = optimization.max_grad_norm, loss_arguments or {}
        self.counted, self.rates, self.draw_targets = counted, rates, draw_targets
        self.labels_per_target = labels_per_target
        self.output_dir = Path(settings.output_dir)
        self.raw_model, self.optimization = model, optimization
        self.sharding = Sharding(accelerator, model, optimization) if is_sharded(accelerator) else None
        if self.sharding:
            self.model, self.optimizer = self.sharding.model, self.sharding.optimizer
        else:
            self.model, self.optimizer = accelerator.prepare(model, make_optimizer(model, optimization))
        self.called_model = compile_model(self.model, accelerator) if settings.torch_compile else self.model
        # What checkpoints are written from and read into.
        self.saved_model = self.sharding.sharded if self.sharding else model
        self.progress = Progress(batches_per_update=settings.gradient_accumulation_steps * accelerator.num_processes)
        self.writer = CheckpointWriter(
            accelerator,
            self.output_dir,
            self.saved_model,
            self.optimizer,
            save_model,
            settings.save_total_limit,
            background=settings.background_checkpoints,
            after_save=after_save,
            group=self.sharding.group if self.sharding else None,
        )
        self.window = LogWindow(accelerator.device)
        self.stopping = StopSignals(settings.stop_within_seconds)
        self._started = self._saved_at = time.perf_counter()
        self._saved_update, self._losses = 0, []
        self._skipped = SkippedUpdates(accelerator.device, settings.max_skipped_updates)
        self._plan_updates()

    def _plan_updates(self) -> None:
        """Computes the length of the run, the schedule and when to evaluate from the number of batches of an update.

        Raises:
            ValueError: if they need the length of the data, which is not known.
        """
        settings = self.settings
        self.total_updates, self.eval_steps = settings.max_steps, settings.eval_steps
        per_epoch = self.updates_per_epoch = self.batches.updates_per_epoch(self.progress.batches_per_update)
        if per_epoch is not None:
            self.eval_steps = self.eval_steps or max(1, per_epoch)
            if self.total_updates is None:
                self.total_updates = max(1, round(settings.num_train_epochs * per_epoch))
        if self.total_updates is None:
            raise ValueError("The data's size is not known, so num_train_epochs cannot end the run. Set max_steps.")
        if self.eval_steps is None:
            raise ValueError(
                "The data's size is not known, so an epoch cannot be evaluated at its end. Set eval_steps."
            )
        model_size = getattr(self.raw_model.config, "hidden_size", None)
        self.learning_rate = make_schedule(self.optimization, self.total_updates, model_size)

    def train(self) -> dict[str, Any]:
        """Runs all updates and leaves the final model in `output_dir`.

        Returns:
            What the run cost and its best score, for `all_results.json`.

        Raises:
            ValueError: if too many updates in a row are not finite; checkpoints written before stay as they are.
            KeyboardInterrupt: after SIGTERM or Ctrl-C, once the last finished update is saved; says how to continue.
        """
        limit_waiting(self.accelerator, LIMIT_WHILE_TRAINING)
        if self.accelerator.is_main_process:
            clean_leftovers(self.output_dir)
        self.accelerator.wait_for_everyone()
        checkpoint = checkpoint_to_resume(self.settings, self.raw_model)
        if checkpoint is not None:
            self._load(checkpoint)
            self._plan_updates()
            self._saved_update = self.progress.update
            self._skipped.load(self.progress.skipped_updates, self.progress.skipped_in_a_row)
            if self.progress.log_window is not None:
                self.window.load_state_dict(self.progress.log_window, self.accelerator)
        reporter = Reporter(
            self.accelerator,
            self.output_dir,
            self.total_updates,
            self.progress.update,
            project=self.settings.project,
            run_name=self.settings.run_name,
        )
        self._find_best_checkpoint(reporter)
        self.earlier_seconds = self.progress.elapsed_seconds
        self._started, self._saved_at = time.perf_counter() - self.earlier_seconds, time.perf_counter()
        with self.stopping, naming_lost_workers():
            try:
                self._run(reporter)
                self.writer.wait()
                results = self._finish(reporter)
                if is_any_true(self.accelerator, self.stopping.received is not None):
                    raise StopRequested
                return results
            except StopRequested:
                self._save_at_stop(reporter)
                leave_together(self.accelerator)
                raise self.stopping.interruption(self._how_to_resume()) from None
            except KeyboardInterrupt:  # the second Ctrl-C
                self.writer.join()
                raise KeyboardInterrupt(self._how_to_resume()) from None
            finally:
                self.writer.join()
                reporter.close()

    def _load(self, checkpoint: Path) -> None:
        """Restores model, optimizer and position."""
        batches_per_update = self.progress.batches_per_update
        self.progress = load_checkpoint(checkpoint, self.saved_model, self.optimizer)
        if self.progress.batches_in_epoch is not None:  # written by an earlier version, on as many processes
            self.progress.batches_per_update = batches_per_update
            accumulation = self.settings.gradient_accumulation_steps
            self.progress.updates_in_epoch = math.ceil(self.progress.batches_in_epoch / accumulation)
            self.progress.batches_in_epoch = None

    def _find_best_checkpoint(self, reporter: Reporter) -> None:
        """Makes the present update the first candidate if the best checkpoint of a resumed run is missing."""
        progress = self.progress
        if self.settings.average_last_checkpoints or progress.best_update is None:
            return
        best = self.output_dir / f"checkpoint-{progress.best_update}"
        # A file system that machines share may show a file to one of them before the others.
        if not on_main_process(self.accelerator, best.is_dir):
            reporter.say(
                f"{best}, the best checkpoint so far, is missing. The best one is chosen among update "
                f"{progress.update} and the later ones."
            )
            progress.best_update = progress.best_score = None
            progress.evaluation_is_due = True

    def _run(self, reporter: Reporter) -> None:
        settings, progress = self.settings, self.progress
        # A run makes at least one update, however short its time is.
        out_of_time = progress.update > 0 and is_any_true(self.accelerator, self._is_out_of_time())
        ends_here = progress.update >= self.total_updates or out_of_time or self._is_out_of_patience()
        # Also where a run resumes between two evaluations and a limit that was lowered ends it there.
        if progress.evaluation_is_due or (ends_here and progress.evaluated_update != progress.update):
            self._evaluate(reporter)
            self._save(reporter)
        updates = self._updates()
        wishes = Wishes(out_of_time=out_of_time)
        if out_of_time:
            reporter.say(f"max_train_minutes ({settings.max_train_minutes:g}) is used up. Raise it to train further.")
        elif self._is_out_of_patience() and progress.update < self.total_updates:
            reporter.say(
                f"early_stopping_patience ({settings.early_stopping_patience}) is used up. Raise it to train further."
            )
        while progress.update < self.total_updates and not (wishes.out_of_time or self._is_out_of_patience()):
            started = time.perf_counter()
            note_progress("reading batches", progress.update + 1)
            with self._abandonable():
                epoch, updates_in_epoch, group = next(updates)
            wishes = self._update(group)
            progress.epoch, progress.updates_in_epoch = epoch, updates_in_epoch
            if self.accelerator.num_processes == 1:  # before the next update is read, which may be given up
                self._note_position_in_stream()
            reporter.advance()
            last = progress.update == self.total_updates or wishes.out_of_time
            log, evaluate, save = (
                every is not None and (last or progress.update % every == 0)
                for every in (settings.logging_steps, self.eval_steps, settings.save_steps)
            )
            if log or evaluate or save or self.accelerator.device.type == "cpu":
                self._check_skipped(group)
            if progress.update % UPDATES_BETWEEN_TRIMS == 0 or evaluate:
                return_freed_memory()
            seconds = time.perf_counter() - started
            self.window.seconds += seconds
            progress.train_seconds += seconds
            if log:
                values = self.window.values(self.accelerator, self.counted)
                values["learning_rate"] = self.learning_rate(progress.update)
                reporter.log(progress.update, values | self.rates(values[f"{self.counted}_per_second"]), "train")
                self.window = LogWindow(self.accelerator.device)
            progress.evaluation_is_due = evaluate
            # Several processes agree at the beginning of an update, so their stop comes after the next one.
            if wishes.stop or self._must_stop():
                raise StopRequested
            if evaluate:
                self._evaluate(reporter)
            if evaluate or save:
                self._save(reporter)
            elif wishes.save:
                self._save(reporter, scheduled=False)

    def _updates(self) -> Iterator[tuple[int, int, list[LocalBatch]]]:
        """Yields the epoch, the number of the update in it and the batches of one update after another."""
        epoch, done, state = self.progress.epoch, self.progress.updates_in_epoch, self.progress.stream
        while True:
            number = done
            groups = self.batches.updates(epoch, self.progress.batches_per_update, skip=done, state=state)
            for number, group in enumerate(groups, done + 1):
                yield epoch, number, group
            if number == 0:
                raise ValueError("The training data gave no batch.")
            epoch, done, state = epoch + 1, 0, None

    def _update(self, group: list[LocalBatch]) -> Wishes:
        """Makes one update and returns what is to be done after it."""
        accelerator, update = self.accelerator, self.progress.update + 1
        self.model.train()
        if self.draw_targets is not None:
            group = [self._with_targets(batch, update) for batch in group]
        with naming_lack_of_memory(group, update):
            sent = [send_batch(batch.tensors, accelerator.device) for batch in group]
        counts = [self.count_tokens(batch.tensors) for batch in group if batch.weight]
        target_tokens = sum(count.target_tokens for count in counts)
        note_progress("computing the gradient")
        # One reduction carries everything on which the processes have to agree.
        weight = [float(sum(count.class_weight for count in counts))] if "class_weights" in self.loss_arguments else []
        own = [target_tokens, *self._own_wishes(), *weight]
        sums = accelerator.reduce(send(torch.tensor(own), accelerator.device), "sum")
        items = {"num_items_in_batch": sums[0] * self.labels_per_target} | (
            {"class_weight_in_batch": sums[-1]} if weight else {}
        )
        # A single process knows them, and does not wait for the device. Several read them now: read after the backward
        # pass, they would wait for that.
        agreed = sums.tolist() if accelerator.num_processes > 1 else own
        target_tokens, *wishes = map(int, agreed[: len(agreed) - len(weight)])
        losses = []
        with self._abandonable(), naming_lack_of_memory(group, update):
            for position, (batch, tensors) in enumerate(zip(group, sent, strict=True)):
                self._give_up_together()
                seed_generators(self.settings.seed, update, batch.index)
                # DistributedDataParallel sends gradients once an update, with its last batch; FSDP2 with every batch.
                with nullcontext() if position == len(group) - 1 else accelerator.no_sync(self.model):
                    loss = self.called_model(**tensors, **items, **self.loss_arguments).loss * batch.weight
                    # Distributed training averages gradients over processes; the gradient here is their sum. The last
                    # term is 0. If the loss is not finite it is NaN, which every process then finds in its gradients.
                    accelerator.backward(loss * (accelerator.num_processes + (loss - loss).detach()))
                losses.append(loss.detach())
            # A bound of infinity clips nothing and still measures the norm.
            norm = accelerator.clip_grad_norm_(self.model.parameters(), self.max_grad_norm or math.inf).detach()
            norm = whole_tensor(norm)
        for parameter_group in self.optimizer.param_groups:
            parameter_group["lr"] = self.learning_rate(update)
        self._skipped.step(self.optimizer, norm)
        self.optimizer.zero_grad()
        self.window.add(torch.stack(losses).sum() * sums[0], norm, counts)
        self._losses = losses
        self.progress.update = update
        self.progress.target_tokens += target_tokens
        return Wishes(*map(bool, wishes))

    def _with_targets(self, batch: LocalBatch, update: int) -> LocalBatch:
        """Returns a batch with targets from the stream of the update and the batch's index."""
        seed_generators(self.settings.seed, "targets", update, batch.index)
        return replace(batch, tensors=self.draw_targets(batch.tensors))

    def _check_skipped(self, group: list[LocalBatch]) -> None:
        is_main, newest = self.accelerator.is_main_process, self._newest_checkpoint
        self._skipped.check(self.progress, group, self._losses, is_main_process=is_main, newest_checkpoint=newest)

    def _own_wishes(self) -> tuple[bool, bool, bool]:
        """Returns this process's part of `Wishes`. The main process's clock decides for all."""
        minutes, is_main = self.settings.save_minutes, self.accelerator.is_main_process
        save = is_main and minutes is not None and time.perf_counter() - self._saved_at > 60 * minutes
        return self.stopping.received is not None, save, is_main and self._is_out_of_time()

    def _evaluate(self, reporter: Reporter) -> None:
        settings, progress = self.settings, self.progress
        note_progress("in an evaluation", progress.update)
        if self.sharding:
            self.sharding.gather_weights()
        scores = self.scores(self.raw_model)
        metric = settings.metric_for_best_model
        check_metric(metric, [name for name, value in scores.items() if isinstance(value, int | float)])
        score, best = scores[metric], progress.best_score
        # A score that is NaN is worse than any other.
        is_first = best is None or (math.isnan(best) and not math.isnan(score))
        if is_first or (score < best if is_lower_better(metric) else score > best):
            progress.best_score, progress.best_update = score, progress.update
            progress.evaluations_without_improvement = 0
        else:
            progress.evaluations_without_improvement += 1
        progress.evaluation_is_due, progress.evaluated_update = False, progress.update
        reporter.log(progress.update, scores, "eval")

    def scores(self, model: PreTrainedModel) -> dict[str, float]:
        """Evaluates a model after the present update; random numbers come from a stream of their own.

        Raises:
            StopRequested: after SIGTERM or Ctrl-C within `train`.
        """
        model.eval()
        seed_generators(self.settings.seed, "evaluation", self.progress.update)
        # Among several processes only parts without communication may be left; `engine/evaluation.py` marks them.
        with torch.no_grad(), interruptible() if self.accelerator.num_processes == 1 else nullcontext():
            return self.evaluate(model)

    def _save(self, reporter: Reporter, scheduled: bool = True) -> None:
        progress = self.progress
        reporter.flush()
        progress.elapsed_seconds = time.perf_counter() - self._started
        progress.log_window = self.window.state_dict(self.accelerator)
        self._skipped.note(progress)
        if self.accelerator.num_processes > 1:
            self._note_position_in_stream()
        self.writer.save(progress, scheduled)
        self._saved_at, self._saved_update = time.perf_counter(), progress.update

    def _note_position_in_stream(self) -> None:
        """Takes over the position after the update that was read last; every process must call this."""
        self.progress.stream = self.batches.state_dict() or self.progress.stream

    def _abandonable(self) -> AbstractContextManager[None]:
        """Marks a part that `stop_within_seconds` may end. Among several processes, the others would wait in it."""
        return self.stopping.abandonable() if self.accelerator.num_processes == 1 else nullcontext()

    def _give_up_together(self) -> None:
        """Ends an update of several processes before one of its batches, once a process's time of grace is over.

        Not where they stream: the position in the stream is behind the update that was read.

        Raises:
            StopRequested: on every process.
        """
        if self.accelerator.num_processes == 1 or self.updates_per_epoch is None:
            return
        if self.settings.stop_within_seconds and is_any_true(self.accelerator, self.stopping.grace_is_over):
            raise StopRequested

    def _must_stop(self) -> bool:
        """Returns whether a signal has arrived that this process need not agree about with others."""
        return self.accelerator.num_processes == 1 and self.stopping.received is not None

    def _save_at_stop(self, reporter: Reporter) -> None:
        """Saves the last finished update, unless a checkpoint holds it already."""
        if self.progress.update and self._saved_update != self.progress.update:
            self._save(reporter, scheduled=False)
        self.writer.wait()

    def _how_to_resume(self) -> str:
        """Returns what an interrupted run has left."""
        return f"Stopped after update {self.progress.update}. {self._newest_checkpoint()}"

    def _newest_checkpoint(self) -> str:
        checkpoints = all_checkpoints_in(self.output_dir)
        if not checkpoints:
            return "There is no checkpoint yet: the same command starts anew."
        return f"The newest checkpoint is {checkpoints[-1]}: run {self.settings.same_command} again to resume from it."

    def _is_out_of_patience(self) -> bool:
        patience = self.settings.early_stopping_patience
        return patience is not None and self.progress.evaluations_without_improvement >= patience

    def _is_out_of_time(self) -> bool:
        limit = self.settings.max_train_minutes
        return limit is not None and time.perf_counter() - self._started > 60 * limit

    def _finish(self, reporter: Reporter) -> dict[str, Any]:
        """Puts the final weights into the model and its folder."""
        progress = self.progress
        results = load_final_weights(self.accelerator, self.raw_model, self.settings, progress, reporter)
        if self.accelerator.is_main_process:
            with files_written_aside(self.output_dir) as folder:
                self.save_model(folder)
        self.accelerator.wait_for_everyone()
        return results | {
            "train_updates": progress.update,
            "train_planned_updates": self.total_updates,
            **({"train_skipped_updates": progress.skipped_updates} if progress.skipped_updates else {}),
            "train_epochs": progress.epochs(self.updates_per_epoch),
            f"train_{self.counted}": progress.target_tokens,
            "train_seconds": round(progress.train_seconds, 1),
            f"train_{self.counted}_per_second": round(progress.target_tokens / max(progress.train_seconds, 1e-9), 1),
            "best_update": progress.best_update,
            f"best_{self.settings.metric_for_best_model}": progress.best_score,
        }

"""A training loop that is stopped: what it leaves, and what a resumed run makes of it."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from tiny_training import LENGTHS, assert_same_weights, collate, log_of, weights_of

from papers_to_gpt.engine.batching import LengthBucketBatches
from papers_to_gpt.settings.arguments import Terminated


def stop_after(trainer, update, number=signal.SIGTERM):
    """Sends this process a signal while the loop computes the update after the given one."""

    def send(module, inputs):
        if module.training and trainer.progress.update == update:
            os.kill(os.getpid(), number)

    trainer.raw_model.register_forward_pre_hook(send)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("update", [1, 3, 7])
def test_a_run_that_is_stopped_and_resumed_equals_an_uninterrupted_one(make_trainer, number, error, update):
    # Update 4 is evaluated, update 3 logged, and in update 8 the evaluation is due when the run stops.
    make_trainer(folder="whole").train()
    trainer = make_trainer(folder="parts")
    stop_after(trainer, update, number)
    with pytest.raises(KeyboardInterrupt, match=f"after update {update + 1}.*recovery-{update + 1}.*the same command"):
        trainer.train()
    assert signal.getsignal(number) != trainer.stopping._note  # the handler of before is back
    resumed = make_trainer(folder="parts", resume_from_checkpoint="last")
    resumed.train()
    whole = Path(trainer.output_dir).parent / "whole"
    assert_same_weights(weights_of(trainer.output_dir), weights_of(whole))
    assert log_of(trainer.output_dir) == log_of(whole)
    assert [path.name for path in Path(trainer.output_dir).glob("*-*")] == [path.name for path in whole.glob("*-*")]


def test_a_signal_ends_an_evaluation_which_is_repeated_after_the_resume(make_trainer):
    def scores(model):
        evaluations.append(trainer.progress.update)
        if evaluations == [4, 8]:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        return {"loss": float(len(evaluations) == 1)}

    evaluations = []
    trainer = make_trainer(evaluate=scores)
    with pytest.raises(Terminated, match="after update 8"):
        trainer.train()
    trainer = make_trainer(evaluate=scores, resume_from_checkpoint="last")
    assert trainer.train()["best_update"] == 8
    assert evaluations == [4, 8, 8, 12]
    assert [line["update"] for line in log_of(trainer.output_dir) if line["kind"] == "eval"] == [4, 8, 12]


def test_updates_that_were_skipped_since_the_last_look_at_the_device_are_in_the_checkpoint(make_trainer):
    trainer = make_trainer()
    trainer._check_skipped = lambda group: None  # an accelerator is asked at log lines and evaluations only
    update = trainer._update

    def spoil(group):
        weight = trainer.raw_model.lm_head.weight
        kept = weight.detach().clone()
        if trainer.progress.update == 1:
            weight.data.fill_(float("nan"))
        wishes = update(group)
        weight.data.copy_(kept if trainer.progress.update == 2 else weight)
        return wishes

    trainer._update = spoil
    stop_after(trainer, 1, signal.SIGTERM)
    with pytest.raises(Terminated, match="recovery-2"):
        trainer.train()
    progress = json.loads((trainer.output_dir / "recovery-2" / "training_state" / "progress.json").read_text())
    assert (progress["skipped_updates"], progress["skipped_in_a_row"]) == (1, 1)


def test_an_evaluation_for_want_of_the_best_checkpoint_has_one_line_in_the_log(make_trainer):
    scores = iter([1.0, 2.0, 3.0, 4.0])
    trainer = make_trainer(evaluate=lambda model: {"loss": next(scores)}, max_steps=8)
    trainer.train()
    shutil.rmtree(trainer.output_dir / "checkpoint-4")
    trainer = make_trainer(evaluate=lambda model: {"loss": next(scores)}, resume_from_checkpoint="last")
    assert trainer.train()["best_update"] == 8
    lines = [(line["update"], line["loss"]) for line in log_of(trainer.output_dir) if line["kind"] == "eval"]
    assert lines == [(4, 1.0), (8, 3.0), (12, 4.0)]


def test_an_update_that_outlasts_the_time_of_grace_is_given_up(make_trainer):
    make_trainer(folder="whole").train()
    trainer = make_trainer(folder="parts", stop_within_seconds=0.05)

    def hang(module, inputs):
        if trainer.progress.update == 5:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    trainer.raw_model.register_forward_pre_hook(hang)
    started = time.perf_counter()
    with pytest.raises(Terminated, match="after update 5"):
        trainer.train()
    assert time.perf_counter() - started < 8
    make_trainer(folder="parts", resume_from_checkpoint="last").train()
    assert_same_weights(weights_of(trainer.output_dir), weights_of(Path(trainer.output_dir).parent / "whole"))


@pytest.mark.parametrize(("last", "left"), [(0, "no checkpoint yet"), (5, "recovery-5")])
def test_reading_that_outlasts_the_time_of_grace_is_given_up(make_trainer, examples, last, left):
    class HangingBatches(LengthBucketBatches):
        def updates(self, *arguments, **options):
            for number, update in enumerate(super().updates(*arguments, **options)):
                if number == last:
                    os.kill(os.getpid(), signal.SIGTERM)
                    time.sleep(10)
                yield update

    trainer = make_trainer(stop_within_seconds=0.05)
    trainer.batches = HangingBatches(examples, LENGTHS, collate, max_tokens_per_batch=40, seed=3)
    started = time.perf_counter()
    with pytest.raises(Terminated, match=f"after update {last}.*{left}"):
        trainer.train()
    assert time.perf_counter() - started < 8


class PositionedBatches(LengthBucketBatches):
    """Batches whose position is the number of updates that were read, as a stream's is."""

    read = 0

    def updates(self, *arguments, **options):
        for update in super().updates(*arguments, **options):
            self.read += 1
            yield update

    def state_dict(self):
        return {"read": self.read} if self.read else None


def test_an_update_that_is_given_up_does_not_move_the_position_in_a_stream(make_trainer, examples):
    trainer = make_trainer(stop_within_seconds=0.05)
    trainer.batches = PositionedBatches(examples, LENGTHS, collate, max_tokens_per_batch=40, seed=3)

    def hang(module, inputs):
        if trainer.progress.update == 5:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    trainer.raw_model.register_forward_pre_hook(hang)
    with pytest.raises(Terminated, match="after update 5"):
        trainer.train()
    progress = json.loads((trainer.output_dir / "recovery-5" / "training_state" / "progress.json").read_text())
    assert progress["stream"] == {"read": 5} and progress["updates_in_epoch"] == 5


def test_a_signal_after_the_last_update_is_not_lost(make_trainer):
    trainer = make_trainer()
    finish = trainer._finish
    trainer._finish = lambda reporter: (finish(reporter), os.kill(os.getpid(), signal.SIGTERM))[0]
    with pytest.raises(Terminated, match="after update 12.*checkpoint-12"):
        trainer.train()


def test_a_second_interrupt_stops_at_once(make_trainer):
    trainer = make_trainer()

    def interrupt_twice(module, inputs):
        if trainer.progress.update == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    trainer.raw_model.register_forward_pre_hook(interrupt_twice)
    with pytest.raises(KeyboardInterrupt, match="after update 5.*checkpoint-4"):
        trainer.train()


@pytest.mark.parametrize(
    ("limit", "average"),
    [({"max_train_minutes": 1e-9}, 0), ({"max_train_minutes": 1e-9}, 2), ({"max_steps": 3}, 0)],
)
def test_a_limit_that_ends_a_run_before_its_first_evaluation_leaves_an_evaluated_model(make_trainer, limit, average):
    options = {"average_last_checkpoints": average, "save_total_limit": 2}
    trainer = make_trainer(**options)
    stop_after(trainer, 2, signal.SIGTERM)
    with pytest.raises(Terminated, match="after update 3.*recovery-3"):
        trainer.train()
    for _ in range(2):  # the second time, the evaluation is there
        results = make_trainer(resume_from_checkpoint="last", **options, **limit).train()
        assert results["train_updates"] == results["best_update"] == 3
        assert [line["update"] for line in log_of(trainer.output_dir) if line["kind"] == "eval"] == [3]
        assert [path.name for path in trainer.output_dir.glob("*-*")] == ["checkpoint-3"]
        assert_same_weights(weights_of(trainer.output_dir), weights_of(trainer.output_dir / "checkpoint-3"))


def test_a_limit_between_two_evaluations_gives_the_last_update_a_chance_to_be_the_best(make_trainer):
    scores = iter([2.0, 1.0])
    trainer = make_trainer(evaluate=lambda model: {"loss": next(scores)})
    stop_after(trainer, 5, signal.SIGTERM)
    with pytest.raises(Terminated, match="after update 6"):
        trainer.train()
    resumed = make_trainer(resume_from_checkpoint="last", max_steps=6, evaluate=lambda model: {"loss": next(scores)})
    assert resumed.train()["best_update"] == 6


def test_a_worker_that_is_lost_during_an_update_is_named(make_trainer, examples):
    trainer = make_trainer()
    trainer.batches = LengthBucketBatches(examples, LENGTHS, collate, max_tokens_per_batch=40, seed=3, num_workers=1)

    def lose(module, inputs):
        if trainer.progress.update == 2:
            (worker,) = multiprocessing.active_children()
            worker.kill()
            time.sleep(10)

    trainer.raw_model.register_forward_pre_hook(lose)
    with pytest.raises(OSError, match=r"prepares batches .* killed by signal.* Lower dataloader_num_workers"):
        trainer.train()

"""The lines before the first update say what the run does, and point at settings that are likely mistakes."""

import pytest

from papers_to_gpt.engine.run_length import describe_length
from papers_to_gpt.settings.training import OptimizationSettings, TrainingSettings


def plan(total_updates, eval_steps, warmup_steps=0, logging_steps=50):
    training = TrainingSettings(output_dir="run", max_steps=total_updates, logging_steps=logging_steps)
    return describe_length(total_updates, eval_steps, training, OptimizationSettings(warmup_steps=warmup_steps))


def test_a_usual_run_has_one_line_with_its_length_and_intervals():
    assert plan(1500, 500) == (
        "1,500 updates; a log line every 50 updates (logging_steps); an evaluation and a checkpoint every 500 updates "
        "(eval_steps)"
    )


def test_intervals_longer_than_the_run_are_given_as_its_end():
    assert plan(6, 500) == (
        "6 updates; a log line at the end (logging_steps); an evaluation and a checkpoint at the end (eval_steps)"
    )


def test_one_update_is_no_plural():
    assert plan(1, 500) == (
        "1 update; a log line at the end (logging_steps); an evaluation and a checkpoint at the end (eval_steps)"
    )
    assert "a log line after every update (logging_steps)" in plan(6, 500, logging_steps=1)


@pytest.mark.parametrize("warmup_steps", [90, 100])
def test_a_warmup_as_long_as_the_run_is_noted(warmup_steps):
    assert f"note: warmup_steps is {warmup_steps}, so the learning rate rises until the run ends" in plan(
        90, 90, warmup_steps
    )


@pytest.mark.parametrize("warmup_steps", [0, 0.5, 0.999, 89])
def test_a_shorter_warmup_and_one_given_as_a_fraction_are_not_noted(warmup_steps):
    assert "warmup_steps" not in plan(90, 90, warmup_steps)


def test_many_evaluations_after_few_updates_are_noted():
    assert "note: the 30 evaluations and checkpoints may take longer than the updates" in plan(60, 2)
    # Three epochs, as in the paper, are few whatever their length.
    assert "note" not in plan(6, 2) and "note" not in plan(600, 20)

"""An evaluation is rehearsed before training without a trace, and ends at a signal."""

import logging
import os
import random
import signal

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tiny_models import tiny_model

from papers_to_gpt.engine.evaluation import evaluate_loss, rehearse_evaluation
from papers_to_gpt.engine.stopping import StopRequested, StopSignals


def states():
    return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()


def test_a_rehearsal_draws_nothing_and_says_nothing(caplog, recwarn):
    model, seen = tiny_model("bahdanau").train(), []

    def evaluate(model):
        seen.append((model.training, torch.is_grad_enabled()))
        random.random(), np.random.rand(), torch.rand(1)
        logging.getLogger("any").warning("of one example")
        np.float64(1) / np.float64(0)
        return {"loss": 1.0, "text": "a"}

    before = states()
    rehearse_evaluation(model, evaluate, "loss")
    assert seen == [(False, False)] and model.training
    assert states() == before
    assert not caplog.records and not recwarn.list
    logging.getLogger("any").warning("heard again")
    assert caplog.messages == ["heard again"]


@pytest.mark.parametrize(("device", "expected"), [("cpu", []), ("cuda:2", [torch.device("cuda:2")])])
def test_a_rehearsal_touches_the_generator_of_no_other_gpu_of_the_machine(device, expected, monkeypatch, recwarn):
    """torch by itself would keep those of all, which sets up each of them in every process, and warn of it."""
    kept, restored = [], []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_rng_state", kept.append)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: restored.append(device))
    model = tiny_model("bahdanau")
    monkeypatch.setattr(type(model), "device", torch.device(device))
    rehearse_evaluation(model, lambda model: {"loss": 1.0})
    assert kept == restored == expected and not recwarn.list


def test_what_is_wrong_with_an_evaluation_is_raised_and_training_is_as_before():
    model, before = tiny_model("bahdanau").train(), states()

    def fail(model):
        torch.rand(1)
        raise ZeroDivisionError("nothing to evaluate")

    with pytest.raises(ZeroDivisionError):
        rehearse_evaluation(model, fail)
    assert model.training and states() == before and logging.root.manager.disable == 0
    with pytest.raises(ValueError, match="metric_for_best_model is 'text', which the evaluation does not report"):
        rehearse_evaluation(model, lambda model: {"loss": 1.0, "text": "a"}, "text")


def test_a_signal_ends_the_evaluation_of_the_loss_between_its_batches():
    model, evaluated = tiny_model("bahdanau").eval(), []
    accelerator = Accelerator(cpu=True)
    batch = {"input_ids": torch.tensor([[5, 6, 2]]), "labels": torch.tensor([[7, 8, 2]])}

    def batches():
        for index in range(3):
            evaluated.append(index)
            if index == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with StopSignals(), pytest.raises(StopRequested):
        evaluate_loss(accelerator, model, batches())
    assert evaluated == [0, 1]
    scores = evaluate_loss(accelerator, model, [batch] * 3)  # without a signal it goes through
    assert scores["loss"] == pytest.approx(model(**batch).loss.item(), rel=1e-5)

"""What the processes of a run say when one of them fails; test_launching.py kills one of a whole run."""

import os
import re
import signal
import socket
import time
from datetime import timedelta

import pytest
import torch
from accelerate import Accelerator
from tiny_models import tiny_batch, tiny_model
from torch import multiprocessing

from papers_to_gpt.engine import process_watch, training
from papers_to_gpt.engine.batching import LocalBatch
from papers_to_gpt.engine.evaluation import map_across_processes
from papers_to_gpt.engine.launching import make_accelerator
from papers_to_gpt.engine.process_watch import ProcessWatch, limit_waiting, stops_together
from papers_to_gpt.engine.training import TrainingLoop
from papers_to_gpt.settings.training import OptimizationSettings, TrainingSettings

HANGS = ("reading batches", "in an evaluation")
STOPPED = "stopped after the last evaluation"


@stops_together
def meet(rank, fault):
    """Two processes that meet at a reduction, to which process 1 comes late or not at all."""
    accelerator = Accelerator(cpu=True)
    ProcessWatch.start(accelerator)
    limit_waiting(accelerator, timedelta(seconds=2))
    accelerator.wait_for_everyone()
    if fault == "the same error":
        raise ValueError("max_steps is too small.")
    if rank == 1 and fault == "an error":
        raise ValueError("The disk is full.")
    if rank == 1 and fault == "late":
        time.sleep(8)
    accelerator.reduce(torch.ones(1), "sum")


class Batches:
    """Three updates of a batch for each process. Where it is told to, it waits until process 0 has ended."""

    def __init__(self, rank, fault, folder):
        self.rank, self.fault, self.folder = rank, fault, folder

    def hang(self, fault):
        while self.rank == 1 and fault == self.fault and not (self.folder / "0").exists():
            time.sleep(0.1)

    def updates_per_epoch(self, batches_per_update):
        return 3

    def updates(self, epoch, batches_per_update, skip=0, state=None):
        for number in range(3):
            if number == 2:
                self.hang("reading batches")
            yield [LocalBatch(tiny_batch("causal_lm"), self.rank)]

    def state_dict(self):
        return None


@stops_together
def train(rank, fault, folder):
    """A training loop in which process 1 hangs."""
    process_watch.BEATS_BETWEEN_LOOKS = process_watch.SECONDS_UNTIL_WARNING = 1
    training.LIMIT_WHILE_TRAINING = timedelta(seconds=6)
    settings = TrainingSettings(str(folder), max_steps=3, eval_steps=3, save_steps=1, bf16=False, use_cpu=True)
    accelerator, model, batches = make_accelerator(settings), tiny_model("causal_lm"), Batches(rank, fault, folder)

    def evaluate(model):
        map_across_processes(accelerator, lambda items: batches.hang("in an evaluation") or items, [1, 2])
        return {"loss": 1.0}

    def save_model(folder, state_dict=None):
        model.save_pretrained(folder, state_dict=state_dict)
        if fault == STOPPED and state_dict is None:  # the final model
            os.kill(os.getpid(), signal.SIGTERM)

    optimization = OptimizationSettings()
    TrainingLoop(accelerator, model, batches, settings, optimization, evaluate=evaluate, save_model=save_model).train()


def run_process(rank, port, fault, folder):
    """Runs in each of two processes and writes how it ended."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    try:
        train(rank, fault, folder) if fault in (*HANGS, STOPPED) else meet(rank, fault)
        end = "met"
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        end = str(error)
    (folder / str(rank)).write_text(end)
    time.sleep(6 * (rank == 0 and fault not in HANGS))  # the main process has the store
    os._exit(0)  # the connections that are still open may abort a process that ends otherwise


@pytest.mark.parametrize(
    ("fault", "ends"),
    [
        ("none", ["met", "met"]),
        ("an error", ["Process 1 of 2 has stopped: The disk is full.", "The disk is full."]),
        ("late", ["The 2 processes lost their connection, or one of them kept the others waiting"]),
    ],
)
def test_the_other_process_says_why_it_stops(tmp_path, fault, ends):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free now
    multiprocessing.spawn(run_process, (port, fault, tmp_path), nprocs=2)
    for rank, end in enumerate(ends):
        assert (tmp_path / str(rank)).read_text().startswith(end)


@pytest.mark.parametrize("fault", HANGS)
def test_a_process_that_keeps_the_others_waiting_is_named_with_the_update_at_which_it_stands(tmp_path, fault, capfd):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    multiprocessing.spawn(run_process, (port, fault, tmp_path), nprocs=2)
    stood = (
        rf"Process 1 \(pid \d+ on .*\) of 2 has stood at update 3 for \d+ seconds, {fault}, while the others wait\."
    )
    assert re.match(f"{stood} Run the command again", (tmp_path / "0").read_text())
    assert len(re.findall(f"^warning: {stood}$", capfd.readouterr().err, re.MULTILINE)) == 1


def test_an_error_that_all_processes_meet_is_said_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    multiprocessing.spawn(run_process, (port, "the same error", tmp_path), nprocs=2)
    ends = sorted((tmp_path / str(rank)).read_text() for rank in range(2))
    assert ends == ["2", "max_steps is too small."]


def test_a_signal_to_one_process_after_the_last_evaluation_stops_all(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    multiprocessing.spawn(run_process, (port, STOPPED, tmp_path), nprocs=2)
    for rank in range(2):
        end = (tmp_path / str(rank)).read_text()
        assert end.startswith(f"Stopped after update 3. The newest checkpoint is {tmp_path / 'checkpoint-3'}: run the")

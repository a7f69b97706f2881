"""What the processes of a run say when one of them fails; test_launching.py kills one of a whole run."""

import os
import socket
import time
from datetime import timedelta

import pytest
import torch
from accelerate import Accelerator
from torch import multiprocessing

from papers_to_gpt.engine.process_watch import ProcessWatch, limit_waiting, stops_together


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


def run_process(rank, port, fault, folder):
    """Runs in each of two processes and writes how it ended."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    try:
        meet(rank, fault)
        end = "met"
    except (Exception, SystemExit) as error:
        end = str(error)
    (folder / str(rank)).write_text(end)
    time.sleep(6 * (rank == 0))  # the main process has the store
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


def test_an_error_that_all_processes_meet_is_said_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    multiprocessing.spawn(run_process, (port, "the same error", tmp_path), nprocs=2)
    ends = sorted((tmp_path / str(rank)).read_text() for rank in range(2))
    assert ends == ["2", "max_steps is too small."]

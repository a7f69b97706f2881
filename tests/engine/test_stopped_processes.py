"""Two processes that are stopped, or resumed, together, though only one of them was told to or sees a file."""

import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
from tiny_models import tiny_batch, tiny_model
from torch import distributed, multiprocessing

from papers_to_gpt.engine.batching import LocalBatch
from papers_to_gpt.engine.launching import make_accelerator
from papers_to_gpt.engine.process_watch import stops_together
from papers_to_gpt.engine.run_lock import lock_output_dir
from papers_to_gpt.engine.training import TrainingLoop
from papers_to_gpt.settings.training import OptimizationSettings, TrainingSettings


class Batches:
    """Updates of two batches for each process; a stream does not know how many there are."""

    def __init__(self, rank, is_stream):
        self.rank, self.is_stream = rank, is_stream

    def updates_per_epoch(self, batches_per_update):
        return None if self.is_stream else 6

    def updates(self, epoch, batches_per_update, skip=0, state=None):
        for _ in range(skip, 6):
            yield [LocalBatch(tiny_batch("causal_lm"), 2 * self.rank + place) for place in range(2)]

    def state_dict(self):
        return None


@stops_together
def train(rank, folder, case, **settings):
    """Trains for up to six updates. Process 1 gets a signal in the third, or does not see the best checkpoint."""
    is_dir = Path.is_dir
    if case == "a file" and rank == 1:
        Path.is_dir = lambda path: path.name != "checkpoint-2" and is_dir(path)
    common = {"eval_steps": 2, "gradient_accumulation_steps": 2, "bf16": False, "use_cpu": True}
    settings = TrainingSettings(str(folder / "run"), **(common | {"max_steps": 6} | settings))
    accelerator, model = make_accelerator(settings), tiny_model("causal_lm")
    batches = Batches(rank, case == "a stream")
    with lock_output_dir(accelerator, settings):
        loop = TrainingLoop(
            accelerator,
            model,
            batches,
            settings,
            OptimizationSettings(),
            evaluate=lambda model: {"loss": float(loop.progress.update)},
            save_model=lambda folder, state_dict=None: model.save_pretrained(folder, state_dict=state_dict),
        )

        def stop(module, inputs):
            if rank == 1 and module.training and loop.progress.update == 2 and loop.stopping.received is None:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.3)

        if case != "a file":
            model.register_forward_pre_hook(stop)
        return loop.train()["best_update"]


def run_process(rank, port, case, settings, folder):
    """Runs in each of two processes, and writes how it ended and whether it is still in their group."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    try:
        end = train(rank, folder, case, **settings)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        end = error
    (folder / str(rank)).write_text(f"{end}{' (in the group)' * distributed.is_initialized()}")
    time.sleep(3 * (rank == 0))  # the main process has the store
    os._exit(0)


def ends_of(folder, case, **settings):
    """How the two processes have ended."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free now
    multiprocessing.spawn(run_process, (port, case, settings, folder), nprocs=2)
    return [(folder / str(rank)).read_text() for rank in range(2)]


@pytest.mark.parametrize(
    ("case", "settings", "update"),
    [
        ("a table", {"stop_within_seconds": 0.05}, 2),
        ("a table", {"stop_within_seconds": 60}, 4),
        ("a table", {}, 4),
        ("a stream", {"stop_within_seconds": 0.05}, 4),
    ],
)
def test_a_signal_to_one_process_stops_both_at_one_update_and_takes_their_group_down(tmp_path, case, settings, update):
    for end in ends_of(tmp_path, case, **settings):
        assert re.fullmatch(rf"Stopped after update {update}\. The newest checkpoint is .*-{update}: run .*", end)


def test_a_refusal_by_the_main_process_takes_the_group_down(tmp_path):
    (tmp_path / "run").write_text("a file in the place of the folder")
    ends = ends_of(tmp_path, "a table")
    assert all("(in the group)" not in end for end in ends) and any(str(tmp_path / "run") in end for end in ends)


def test_the_main_process_decides_whether_the_best_checkpoint_is_there(tmp_path):
    assert ends_of(tmp_path, "a file", max_steps=4) == ["2", "2"]
    assert ends_of(tmp_path, "a file", resume_from_checkpoint="last") == ["2", "2"]

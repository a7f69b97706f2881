"""The lock of an output folder: one run at a time, none after a kill, and nothing left behind."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest
from accelerate import Accelerator

from papers_to_gpt.engine.run_lock import LOCK_FILE, SOFT_LOCK_FILE, lock_output_dir
from papers_to_gpt.settings.training import TrainingSettings

HOLD = """
import sys, time
from accelerate import Accelerator
from papers_to_gpt.engine.run_lock import lock_output_dir
from papers_to_gpt.settings.training import TrainingSettings
with lock_output_dir(Accelerator(cpu=True), TrainingSettings(output_dir=sys.argv[1], max_steps=1)):
    print("held", flush=True)
    time.sleep(600)
"""

# Each process in a folder of its own, as on machines that share no disk.
APART = """
import os, sys, time
from datetime import timedelta
from accelerate import Accelerator
from papers_to_gpt.engine import run_lock
from papers_to_gpt.engine.process_watch import limit_waiting
from papers_to_gpt.settings.training import TrainingSettings
run_lock.SECONDS_TO_SEE_A_FILE = 1.0
accelerator = Accelerator(cpu=True)
limit_waiting(accelerator, timedelta(seconds=5))
home = f"{sys.argv[1]}/{accelerator.process_index if sys.argv[2] == 'apart' else 'shared'}"
os.makedirs(home, exist_ok=True)
os.chdir(home)
try:
    with run_lock.lock_output_dir(accelerator, TrainingSettings(output_dir="run", max_steps=1)):
        print("entered", flush=True)
        if accelerator.is_main_process and sys.argv[2] == "late":  # as where it sends the model to the Hub
            time.sleep(8)
except ValueError as error:
    print(error, flush=True)
accelerator.end_training()
"""


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def training(folder, **settings):
    return TrainingSettings(output_dir=str(folder), max_steps=1, **settings)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_told_at_once_who_holds_the_folder(accelerator, holder, tmp_path):
    started = time.monotonic()
    with pytest.raises(ValueError, match="holds another run, which is still going") as raised:
        with lock_output_dir(accelerator, training(tmp_path / "run")):
            pytest.fail("two runs hold the folder")
    assert time.monotonic() - started < 5
    message = str(raised.value)
    assert f"process {holder.pid} on {socket.gethostname()}, started 20" in message and "--output_dir" in message


def test_a_run_that_was_killed_does_not_keep_the_folder(accelerator, holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK_FILE).is_file()
    with lock_output_dir(accelerator, training(tmp_path / "run")):
        pass
    assert not (tmp_path / "run" / LOCK_FILE).exists()


def test_nothing_is_left_of_a_run_that_wrote_nothing(accelerator, tmp_path):
    with (
        pytest.raises(ValueError, match="no data"),
        lock_output_dir(accelerator, training(tmp_path / "runs" / "mine")),
    ):
        raise ValueError("no data")
    assert not list(tmp_path.iterdir())
    with lock_output_dir(accelerator, training(tmp_path / "runs" / "mine")):
        (tmp_path / "runs" / "mine" / "model").touch()
    assert [path.name for path in (tmp_path / "runs" / "mine").iterdir()] == ["model"]
    (tmp_path / "empty").mkdir()
    with lock_output_dir(accelerator, training(tmp_path / "empty")):
        pass
    assert (tmp_path / "empty").is_dir()  # it was the user's


def test_a_folder_can_be_held_again_after_an_error(accelerator, tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), lock_output_dir(accelerator, training(tmp_path)):
            raise KeyError


def test_a_file_is_no_output_folder(accelerator, tmp_path):
    (tmp_path / "file").touch()
    for name in ("file", "file/run"):
        refused = pytest.raises(ValueError, match=f"output_dir is .*{name}, which is a file or would be in one")
        with refused, lock_output_dir(accelerator, training(tmp_path / name)):
            pass


def test_an_interruption_without_words_says_how_to_resume(accelerator, tmp_path):
    with (
        pytest.raises(KeyboardInterrupt, match="the same command again"),
        lock_output_dir(accelerator, training(tmp_path)),
    ):
        raise KeyboardInterrupt
    replacing = training(tmp_path, overwrite_output_dir=True)
    with pytest.raises(KeyboardInterrupt, match="without --overwrite"), lock_output_dir(accelerator, replacing):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt, match="^At update 5$"), lock_output_dir(accelerator, training(tmp_path)):
        raise KeyboardInterrupt("At update 5")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_flock_a_file_stands_for_the_lock(accelerator, tmp_path, monkeypatch, capsys, number):
    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with lock_output_dir(accelerator, training(tmp_path)):
        assert capsys.readouterr().out.count("has no flock") == 1
        assert [path.name for path in tmp_path.iterdir()] == [SOFT_LOCK_FILE]
        with pytest.raises(ValueError, match=f"process {os.getpid()} on {socket.gethostname()}, started 20"):
            with lock_output_dir(accelerator, training(tmp_path)):
                pytest.fail("two runs hold the folder")
    assert not list(tmp_path.iterdir())


def test_the_file_is_a_lock_for_other_programs_too(accelerator, tmp_path):
    with lock_output_dir(accelerator, training(tmp_path)), pytest.raises(filelock.Timeout):
        filelock.FileLock(tmp_path / LOCK_FILE).acquire(timeout=0)


@pytest.mark.parametrize(
    ("where", "said"),
    [("apart", "is not one folder for all processes"), ("shared", "entered"), ("late", "entered")],
)
def test_processes_that_do_not_see_one_folder_are_told(tmp_path, where, said):
    script = tmp_path / "script.py"
    script.write_text(APART)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    result = subprocess.run([*launcher, script, tmp_path, where], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(said) == 2

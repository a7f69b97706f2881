"""Writing checkpoints: full disks, losses of power, a thread in the background, several processes."""

import contextlib
import fcntl
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from tiny_runs import Run, contents

from papers_to_gpt.engine.checkpoint_writer import outdated_checkpoints
from papers_to_gpt.engine.checkpointing import Progress, checkpoints_in, find_good_checkpoint, verify_checkpoint
from papers_to_gpt.engine.durable_files import WriteError
from papers_to_gpt.engine.reporting import Reporter, read_log, read_run_record, write_run_record
from papers_to_gpt.settings.training import OptimizationSettings


def test_the_best_and_the_newest_are_kept_and_later_ones_of_an_abandoned_line_go():
    def names(*updates):
        return [Path(f"checkpoint-{update}") for update in updates]

    written = names(2, 4, 6, 8, 10)
    assert outdated_checkpoints(written, Progress(10, best_update=4), 2) == names(2, 6)
    assert outdated_checkpoints(written, Progress(10, best_update=4), 0) == []
    # Resumed at 4 and now at 6, though 8 and 10 are still there.
    assert outdated_checkpoints(written, Progress(6, best_update=4), 1) == names(2, 8, 10)
    assert outdated_checkpoints(written, Progress(6), 0) == names(8, 10)


# Full disks


@contextlib.contextmanager
def mounted(folder, *arguments):
    """A disk of its own at a folder."""
    folder.mkdir(exist_ok=True)
    command = ["mount", *map(str, arguments), str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("Only an administrator can mount a disk.")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("background", [False, True])
def test_a_disk_that_is_full_at_any_write_leaves_the_checkpoint_before(tmp_path, background):
    page = 4096
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={400 * page}", "tmpfs") as disk:
        run = Run(disk, keep_last=1, background=background)
        first = run.update(0).save(1)
        run.writer.wait()
        before, named = contents(first), set()
        run.update(1)
        filler = disk / "filler"
        for free_pages in range(400):
            filler.unlink(missing_ok=True)
            free = shutil.disk_usage(disk).free // page
            filler.write_bytes(b"\1" * page * max(0, free - free_pages))
            try:
                run.save(2)
                run.writer.wait()
                break
            except WriteError as error:
                file = re.match(r"(\S+) could not be written: No space left on device. Free space", str(error))
                named.add(Path(file[1]).relative_to(disk).as_posix())
                assert str(error).endswith(f"last checkpoint. That is {first}.")
            assert contents(first) == before
            assert sorted(os.listdir(disk)) == ["checkpoint-1", "filler"]
        assert [path.name for path in checkpoints_in(disk)] == ["checkpoint-2"]
        assert verify_checkpoint(disk / "checkpoint-2", run.model) == []
    # Python, safetensors and tokenizers all met the end of the disk.
    assert {f"checkpoint-2/{name}" for name in ("model.safetensors", "tokenizer.json")} <= named
    assert len(named) > 4


def test_a_failure_before_the_first_checkpoint_says_that_there_is_none(tmp_path):
    def full(folder, state_dict):
        raise OSError(28, "No space left on device", str(folder / "config.json"))

    with pytest.raises(WriteError, match=r"/checkpoint-1/config.json could not be written: .* There is none yet"):
        Run(tmp_path, save_model=full).save(1)
    assert not list(tmp_path.iterdir())


def test_other_errors_stay_what_they_are(tmp_path):
    def wrong(folder, state_dict):
        raise KeyError("a fault of the program")

    with pytest.raises(KeyError, match="a fault of the program"):
        Run(tmp_path, save_model=wrong).save(1)


# Losses of power

EXT4_IOC_SHUTDOWN, WITHOUT_FLUSH = 0x8004587D, struct.pack("I", 2)  # linux/fs/ext4/ext4.h


@pytest.mark.parametrize("flushed", [True, False])
def test_a_loss_of_power_right_after_a_save_leaves_the_checkpoint(tmp_path, monkeypatch, flushed):
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("There is no mkfs.ext4.")
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    if not flushed:  # without fsync the same loss leaves nothing: what is measured is the flush
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    with mounted(tmp_path / "disk", "-o", "loop,commit=300", image) as disk:
        run = Run(disk, keep_last=1)
        write_run_record(disk, run.writer.accelerator, (OptimizationSettings(),))
        reporter = Reporter(run.writer.accelerator, disk, 3, project="test")
        for update in (1, 2, 3):
            run.update(update)
            reporter.log(update, {"loss": 1.0}, "train")
            reporter.flush()
            run.save(update)
        descriptor = os.open(disk, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, WITHOUT_FLUSH)
        except OSError as error:
            pytest.skip(f"This file system cannot be shut down ({error}).")
        finally:
            os.close(descriptor)
    with mounted(tmp_path / "disk", "-o", "loop", image) as disk:
        good, skipped = find_good_checkpoint(disk, run.model)
        assert good == (disk / "checkpoint-3" if flushed else None)
        if flushed:
            assert not skipped and read_run_record(disk)["settings"]
            assert [line["update"] for line in read_log(disk / "train_log.jsonl")] == [1, 2, 3]


# In the background


def test_the_background_writes_the_bytes_of_the_moment_of_the_save(tmp_path):
    may_write = threading.Event()
    written = []

    def save_slowly(folder, state_dict):
        assert may_write.wait(timeout=60)
        behind.save_model(folder, state_dict)

    ahead = Run(tmp_path / "ahead")
    behind = Run(tmp_path / "behind", save_model=save_slowly, background=True, after_save=written.append)
    for update in (1, 2):
        ahead.update(update).save(update)
        behind.update(update).save(update)
        behind.update(*([7] * update))  # training continues before anything is written
        ahead.update(*([7] * update))
        assert written == [tmp_path / "behind" / f"checkpoint-{number}" for number in range(1, update)]
        may_write.set()
        behind.writer.wait()
        may_write.clear()
    for update in (1, 2):
        name = f"checkpoint-{update}"
        assert contents(tmp_path / "ahead" / name) == contents(tmp_path / "behind" / name)


@pytest.mark.parametrize(("device", "waits"), [("cpu", 0), ("mps", 1), ("cuda", 1)])
def test_a_copy_from_any_accelerator_is_complete_before_it_is_written(tmp_path, monkeypatch, device, waits):
    run, waited = Run(tmp_path, background=True), []
    monkeypatch.setattr(type(run.writer.accelerator), "device", torch.device(device))
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    run.save(1)
    run.writer.join()
    assert len(waited) == waits


def test_a_save_waits_while_another_is_written(tmp_path):
    running, most = [], []

    def save_slowly(folder, state_dict):
        running.append(folder)
        most.append(len(running))
        threading.Event().wait(0.1)
        run.save_model(folder, state_dict)
        running.pop()

    run = Run(tmp_path, save_model=save_slowly, background=True)
    for update in (1, 2, 3):
        run.update(update).save(update)
    run.writer.wait()
    assert most == [1, 1, 1] and len(checkpoints_in(tmp_path)) == 3


@pytest.mark.parametrize("surfaces_at", ["save", "wait"])
def test_an_error_in_the_background_surfaces_once(tmp_path, surfaces_at):
    failures = iter([OSError(28, "No space left on device")])

    def fail_once(folder, state_dict):
        if error := next(failures, None):
            raise error
        run.save_model(folder, state_dict)

    run = Run(tmp_path, save_model=fail_once, background=True)
    run.save(1)
    with pytest.raises(WriteError, match="checkpoint-1 could not be written: No space left on device"):
        run.save(2) if surfaces_at == "save" else run.writer.wait()
    run.save(3)
    run.writer.wait()
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-3"]


# Several processes

TWO_PROCESSES = """
import sys
from pathlib import Path
from tiny_runs import Run

from papers_to_gpt.engine.durable_files import WriteError
from papers_to_gpt.engine.process_watch import leave_together

def full(folder, state_dict):
    raise OSError(28, "No space left on device", str(folder / "config.json"))

for background in (False, True):
    run = Run(Path(sys.argv[1]) / str(background), background=background)
    process = run.writer.accelerator.process_index
    assert run.writer.accelerator.num_processes == 2
    run.folder.mkdir(exist_ok=True)
    run.update(0).save(1)
    run.writer.wait()
    run.writer.save_model = full
    try:
        run.save(2)
        run.writer.wait()
    except WriteError as error:
        Path(sys.argv[1], f"{background}-{process}").write_text(str(error))
leave_together(run.writer.accelerator)
"""


def test_every_process_learns_that_the_main_one_could_not_write(tmp_path):
    script = tmp_path / "two_processes.py"
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    subprocess.run([*command, str(tmp_path)], check=True, timeout=300, env={**os.environ, "PYTHONPATH": path})
    for background in (False, True):
        folder = tmp_path / str(background)
        assert os.listdir(folder) == ["checkpoint-1"]
        expected = f"{folder / 'checkpoint-2' / 'config.json'} could not be written: No space left on device. "
        assert [(tmp_path / f"{background}-{process}").read_text().startswith(expected) for process in (0, 1)] == [
            True,
            True,
        ]

"""A lock on the output folder of a run: a second run in the same folder meets it at once, a dead run does not keep it.

The main process holds `flock` on a file in the folder for the whole run. The kernel releases it when the process ends,
however it ends. Where the file system has no `flock`, a file with the host and the process stands for the lock.
"""

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from papers_to_gpt.engine.durable_files import make_folder
from papers_to_gpt.engine.process_watch import LIMIT_WHILE_PREPARING, leave_together, limit_waiting
from papers_to_gpt.settings.arguments import Terminated, raise_lost_interruption
from papers_to_gpt.settings.training import TrainingSettings

LOCK_FILE = ".run.lock"
# Where there is no flock. It has a name of its own, as an empty LOCK_FILE would count as another run's.
SOFT_LOCK_FILE = ".run.lock.soft"

# What file systems without flock answer.
NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}

# A run that is just ending may hold the lock for a moment.
SECONDS_TO_WAIT = 0.5
# Network file systems show a new file to other machines with some delay.
SECONDS_TO_SEE_A_FILE = 20.0

Answer = TypeVar("Answer")


def on_main_process(accelerator: Accelerator, function: Callable[[], Answer]) -> Answer:
    """Calls a function on the main process and returns its answer on every process; an error ends the run.

    Raises:
        ValueError: on every process, if the function raises ValueError or OSError on the main process.
    """
    answer: list[tuple[Answer | None, str | None]] = [(None, None)]
    if accelerator.is_main_process:
        try:
            answer = [(function(), None)]
        except (ValueError, OSError) as error:
            answer = [(None, str(error))]
    broadcast_object_list(answer)
    value, problem = answer[0]
    if problem is not None:
        leave_together(accelerator)
        raise ValueError(problem)
    return value


@contextlib.contextmanager
def lock_output_dir(accelerator: Accelerator, training: TrainingSettings) -> Iterator[None]:
    """Holds the lock of an output folder, which it creates; a folder that nothing was written to is removed again.

    Args:
        accelerator: every process must enter; the main process holds the lock.
        training: names the folder of the run.

    Raises:
        ValueError: if another run holds the folder, it cannot be written to, or not every process sees it.
        KeyboardInterrupt: says how to continue where the interruption does not say it itself.
    """
    folder = Path(training.output_dir)
    try:
        with contextlib.ExitStack() as stack:
            stack.push(_raise_lost_interruption)
            written = on_main_process(accelerator, lambda: _acquire(folder, stack))
            if accelerator.num_processes > 1:
                _check_shared_disk(accelerator, folder, written)
            yield
            if accelerator.num_processes > 1:
                # The main process may be sending the model to the Hub, over a slow connection.
                limit_waiting(accelerator, LIMIT_WHILE_PREPARING)
                leave_together(accelerator)
    except KeyboardInterrupt as interrupt:
        if interrupt.args:
            raise
        what = "Terminated" if isinstance(interrupt, Terminated) else "Interrupted"
        raise type(interrupt)(f"{what}. No update is lost; run {training.same_command} again to continue.") from None


def _raise_lost_interruption(kind: type[BaseException] | None, *error: object) -> None:
    """Puts an interruption that became an error on its way in place of the error."""
    if kind is not None:
        raise_lost_interruption()


def _acquire(folder: Path, stack: contextlib.ExitStack) -> tuple[str, str]:
    """Creates the folder and locks it until the stack ends; returns the lock file's name and content."""
    created = [each for each in (folder, *folder.parents) if not each.exists()]
    make_folder(folder)
    try:
        stack.callback(_remove_empty, created)
        lock = _lock(folder)
    except OSError as error:
        raise ValueError(f"output_dir {folder} cannot be written to: {error}. Name another folder.") from error
    path = Path(lock.lock_file)
    if path.name == LOCK_FILE:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        path.write_text(json.dumps({"host": socket.gethostname(), "process": os.getpid(), "started": now}) + "\n")
    stack.callback(_release, lock)
    return path.name, path.read_text()


def _lock(folder: Path) -> BaseFileLock:
    lock = FileLock(folder / LOCK_FILE, fallback_to_soft=False, thread_local=False)
    try:
        lock.acquire(timeout=SECONDS_TO_WAIT)
        return lock
    except Timeout:
        raise ValueError(_held(folder, folder / LOCK_FILE)) from None
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
    with contextlib.suppress(OSError):
        (folder / LOCK_FILE).unlink()
    print(
        f"Warning: the file system of {folder} has no flock, so the file {SOFT_LOCK_FILE} stands for the lock. Remove "
        "it by hand if this run is killed and a run on another machine continues."
    )
    soft = SoftFileLock(folder / SOFT_LOCK_FILE, thread_local=False)
    try:
        soft.acquire(timeout=SECONDS_TO_WAIT)
    except Timeout:
        raise ValueError(_held(folder, folder / SOFT_LOCK_FILE)) from None
    return soft


def _held(folder: Path, path: Path) -> str:
    """Returns the error message if another run holds the lock."""
    host, process, started = _holder(path)
    rest = f" If it has ended, remove {path}." if path.name == SOFT_LOCK_FILE else ""
    return (
        f"output_dir {folder} holds another run, which is still going: process {process} on {host}, started "
        f"{started}. Wait until it ends, stop it, or name another folder (--output_dir ...).{rest}"
    )


def _holder(path: Path) -> tuple[str, str, str]:
    """Returns host, process and start of the run that holds a lock; filelock writes a soft lock line by line."""
    unknown = ("an unknown host", "of unknown number", "at an unknown time")
    try:
        text = path.read_text()
        if path.name == SOFT_LOCK_FILE:
            process, host, *_ = text.splitlines()
            written = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
            return host, process, written.isoformat(timespec="seconds")
        holder = json.loads(text)
        return holder["host"], str(holder["process"]), holder["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return unknown


def _release(lock: BaseFileLock) -> None:
    # Removed while it is held: whoever opened this file meanwhile finds that it has no name any more, and takes the
    # new one (filelock looks).
    with contextlib.suppress(OSError):
        Path(lock.lock_file).unlink()
    lock.release()


def _remove_empty(folders: list[Path]) -> None:
    """Removes the folders that the run made, the innermost first, as far as they are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _check_shared_disk(accelerator: Accelerator, folder: Path, written: tuple[str, str]) -> None:
    """Checks that every process sees the lock file of the main process.

    Raises:
        ValueError: on every process, if one of them does not.
    """
    name, content = written
    last = time.monotonic() + SECONDS_TO_SEE_A_FILE
    seen = False
    while not seen and time.monotonic() < last:
        with contextlib.suppress(OSError):
            seen = (folder / name).read_text() == content
        if not seen:
            time.sleep(0.1)
    all_see = accelerator.gather(torch.tensor([seen], device=accelerator.device)).all()
    if not all_see:
        leave_together(accelerator)
        where = "" if seen else f" {socket.gethostname()} does not see what the main process writes there."
        raise ValueError(
            f"output_dir {folder} is not one folder for all processes.{where} With several machines, output_dir must "
            "be on a file system that they share."
        )

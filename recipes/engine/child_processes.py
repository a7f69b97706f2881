"""Processes that a command starts, such as runs of the recipes, and that must not outlive it."""

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# A run that is asked to stop finishes its update and writes a checkpoint first.
STOPPING_SECONDS = 60


@contextlib.contextmanager
def child_processes() -> Iterator[dict[subprocess.Popen, Any]]:
    """Gives a dictionary of processes, and ends those that are still in it when an error or Ctrl-C ends the block."""
    active: dict[subprocess.Popen, Any] = {}
    try:
        yield active
    finally:
        for process in active:
            process.terminate()
        _wait(list(active))


def _wait(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        try:
            process.wait(timeout=STOPPING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def start_logged(words: Sequence[str], log: Path, **options: Any) -> subprocess.Popen:
    """Starts a process whose output goes to a file.

    It has a session of its own: Ctrl-C reaches this process alone, which then stops the other in the same way.

    Args:
        words: the program and its arguments.
        log: the file, which is replaced.
        options: further arguments of `subprocess.Popen`, such as `env`.
    """
    with open(log, "w", encoding="utf-8") as output:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )


def last_line(log: Path) -> str:
    """Returns the last line of a log that is not empty, which is the message of a recipe that failed."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "without a message").removeprefix("error: ")

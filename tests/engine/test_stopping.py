"""Signals that a library's finalizer swallows, and those that the caller of a script ignores."""

import signal
import subprocess
import sys
from functools import partial

import pytest

SCRIPT = """
import os, signal
from papers_to_gpt.engine.stopping import StopSignals
from papers_to_gpt.settings.arguments import run_script

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})

def main():
    {body}

run_script(main)
"""


def run(name, body, **options):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(name=name, body=body)], capture_output=True, text=True, **options
    )


@pytest.mark.parametrize(
    ("name", "status", "word"), [("SIGTERM", 143, "Terminated."), ("SIGINT", 130, "Interrupted.")]
)
def test_a_signal_that_was_lost_in_a_finalizer_stops_the_run_before_its_first_update(name, status, word):
    ended = run(
        name, "Finalized()\n    print('prepared', flush=True)\n    with StopSignals():\n        print('trained')"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "prepared\n", f"{word}\n")


def test_a_signal_that_becomes_an_error_is_still_a_signal():
    body = """
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        raise ImportError("cannot import name io")
    """
    ended = run("SIGTERM", body)
    assert (ended.returncode, ended.stderr) == (143, "Terminated.\n")


@pytest.mark.parametrize(
    "body", ["Finalized()", "with StopSignals() as signals: Finalized(); assert not signals.received"]
)
def test_an_interrupt_that_the_caller_ignores_stays_ignored(body):
    ended = run("SIGINT", body, preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_IGN))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

"""Notices that another process of a run has ended, does not answer or keeps the others waiting, and says which.

A collective operation alone does not tell: gloo reports a closed connection without saying whose it is, and NCCL
waits. So a thread of every process counts up in the store that the launcher keeps, and watches the count of the next
process. Where an operation fails, the counts of all processes show which of them has stopped counting.

A process that hangs, for instance on a disk that does not answer, still counts. So the training loop notes what it
begins to do (`note_progress`), in the same order on every process, and the count carries it: the process with the
fewest notes keeps the others waiting.
"""

import contextlib
import functools
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

from accelerate import Accelerator
from torch import distributed

Result = TypeVar("Result")

BEAT_SECONDS = 1.0
# A process that is alive cannot be silent for so long, unless it is stopped or its machine is out of reach.
BEATS_UNTIL_SILENT = 60
# Time that this process's main thread has to end by itself when another process has failed. It may be closing a
# tracker, if it met the same error.
BEATS_UNTIL_EXIT = 45
STORE_TIMEOUT = timedelta(seconds=10)
# The main process looks for one that keeps the others waiting at every tenth beat, and warns after five minutes.
BEATS_BETWEEN_LOOKS = 10
SECONDS_UNTIL_WARNING = 300
# Preparing data keeps the other processes waiting for the main one, perhaps for hours. Later, the longest wait is for
# the main process to write a checkpoint, or for a share of an evaluation.
LIMIT_WHILE_PREPARING = timedelta(days=1)
LIMIT_WHILE_TRAINING = timedelta(minutes=30)

DONE = "done"
HOW_TO_RESUME = "Run the command again, without --overwrite_output_dir, to resume from the newest checkpoint."


def limit_waiting(accelerator: Accelerator, limit: timedelta) -> None:
    """Sets how long a collective operation may wait for the other processes before it fails."""
    if accelerator.num_processes > 1:
        distributed.distributed_c10d._set_pg_timeout(limit)


def leave_together(accelerator: Accelerator) -> None:
    """Takes the group of processes down, so that none goes while others still talk to it, which makes them abort.

    Every process must call this. After an error that one process alone meets, none may: taking the group down waits
    for the operations that the others have begun.
    """
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        distributed.destroy_process_group()


@dataclass(frozen=True)
class Position:
    """What a process has noted last.

    Attributes:
        notes: number of its notes.
        activity: what it does, such as "reading batches".
        update: the update that it is at; None before the first.
        since: the process's clock (`time.monotonic`) at the note, in seconds; in a beat, the seconds since then.
    """

    notes: int = 0
    activity: str = "preparing"
    update: int | None = None
    since: float = 0.0


def note_progress(activity: str, update: int | None = None) -> None:
    """Notes what this process begins to do, for the message if it keeps the others waiting.

    Every process must make the same notes in the same order. One before a collective operation tells those that wait
    from those that are waited for. Without `ProcessWatch`, as in a run of one process, nothing happens.

    Args:
        activity: in words that follow "has stood at update 3 for 5 seconds,".
        update: the update that it is for. Default: that of the note before.
    """
    if (watch := ProcessWatch.current) is not None:
        last = watch.position
        watch.position = Position(
            last.notes + 1, activity, last.update if update is None else update, time.monotonic()
        )


class ProcessWatch:
    """Counts up in the processes' store, and watches the next process of the run.

    Args:
        index, count: this process and their number.
        store: a connection to the store of this process alone, because an operation that waits blocks its connection.
    """

    current: "ProcessWatch | None" = None

    def __init__(self, index: int, count: int, store: distributed.Store):
        self.index, self.count, self.store = index, count, store
        self.position = Position(since=time.monotonic())
        self._warned_of = -1
        self._ended = threading.Event()
        store.set_timeout(STORE_TIMEOUT)
        store.set(f"place/{index}", f"pid {os.getpid()} on {socket.gethostname()}")
        self._thread = threading.Thread(target=self._watch, name="process watch", daemon=True)
        self._thread.start()

    @classmethod
    def start(cls, accelerator: Accelerator) -> None:
        """Starts to watch a run of several processes; further calls change nothing."""
        if accelerator.num_processes == 1 or cls.current is not None:
            return
        store = distributed.distributed_c10d._get_default_store().clone()
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = distributed.PrefixStore(f"process_watch/{attempt}", store)
        cls.current = cls(accelerator.process_index, accelerator.num_processes, store)
        limit_waiting(accelerator, LIMIT_WHILE_PREPARING)

    def end(self) -> None:
        """Tells the others that this process has done its part."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(RuntimeError):  # the store may be gone already
            self.store.set(f"beat/{self.index}", DONE)
        ProcessWatch.current = None

    def tell(self, failure: str) -> str:
        """Leaves a message for all processes, and returns that of the first process that left one."""
        try:
            return self.store.compare_set("failure", "", failure).decode()
        except RuntimeError:
            return failure

    def is_first_to_say(self, message: str) -> bool:
        """Returns whether no other process of this machine has said this; the same error may occur in all of them."""
        try:
            return self.store.add(f"said on {socket.gethostname()}/{message}", 1) == 1
        except RuntimeError:
            return True

    def describe_failure(self) -> str:
        """Returns a sentence on why an operation with the other processes failed; takes a few seconds."""
        try:
            before = self._beats()
            time.sleep(4 * BEAT_SECONDS)
            if self.store.check(["failure"]):
                return self.store.get("failure").decode()
            beats = self._beats()
            silent = [index for index, beat in beats.items() if beat == before[index] and index != self.index]
            if silent:
                return self.tell(self._describe(silent))
            (behind, position), (earlier, was) = self._behind(beats), self._behind(before)
            if behind and (behind, position.notes) == (earlier, was.notes):
                return self.tell(f"{self._describe_behind(behind, position)} {HOW_TO_RESUME}")
        except RuntimeError:
            return f"The main process, or the launcher that started it, has ended. {HOW_TO_RESUME}"
        where = self.position.activity
        if self.position.update is not None:
            where = f"at update {self.position.update}, {where}"
        return self.tell(
            f"The {self.count} processes lost their connection, or one of them kept the others waiting for too long "
            f"({where}). {HOW_TO_RESUME}"
        )

    def _describe(self, silent: list[int]) -> str:
        do = "does" if len(silent) == 1 else "do"
        return f"{self._subject(silent)} ended or {do} not answer. {HOW_TO_RESUME}"

    def _describe_behind(self, behind: list[int], position: Position) -> str:
        at = "" if position.update is None else f" at update {position.update}"
        return (
            f"{self._subject(behind)} stood{at} for {position.since:.0f} seconds, {position.activity}, while the "
            "others wait."
        )

    def _subject(self, indices: list[int]) -> str:
        """Returns the names of processes with "has" or "have", such as "Process 1 (pid 7 on host) of 2 has"."""
        names = []
        for index in indices:
            place = (
                self.store.get(f"place/{index}").decode() if self.store.check([f"place/{index}"]) else "not started"
            )
            names.append(f"{index} ({place})")
        one = len(indices) == 1
        return f"Process{'' if one else 'es'} {', '.join(names)} of {self.count} {'has' if one else 'have'}"

    @staticmethod
    def _behind(beats: dict[int, str]) -> tuple[list[int], Position]:
        """Returns the processes that keep others waiting, by their beats, and where the first of them stands."""
        positions = {index: Position(*json.loads(beat)[1]) for index, beat in beats.items() if beat not in ("", DONE)}
        notes = {position.notes for position in positions.values()}
        if len(notes) < 2:
            return [], Position()
        behind = [index for index, position in positions.items() if position.notes == min(notes)]
        return behind, positions[behind[0]]

    def _warn_of_waiting(self) -> None:
        """Says once which process has kept the others waiting for `SECONDS_UNTIL_WARNING`."""
        behind, position = self._behind(self._beats())
        if behind and position.since >= SECONDS_UNTIL_WARNING and position.notes != self._warned_of:
            self._warned_of = position.notes
            print(f"warning: {self._describe_behind(behind, position)}", file=sys.stderr, flush=True)

    def _beats(self) -> dict[int, str]:
        """Returns the count of every process."""
        keys = {index: f"beat/{index}" for index in range(self.count)}
        return {index: self.store.get(key).decode() if self.store.check([key]) else "" for index, key in keys.items()}

    def _watch(self) -> None:
        following = (self.index + 1) % self.count
        own, last, silent, told = 0, "", 0, 0
        # Seconds are counted in beats of this thread, which do not pass while the whole run is suspended.
        while not self._ended.wait(BEAT_SECONDS):
            own += 1
            try:
                position = self.position  # read once: the main thread replaces it
                position = replace(position, since=round(time.monotonic() - position.since))
                self.store.set(f"beat/{self.index}", json.dumps([own, astuple(position)]))
                beat = self.store.get(f"beat/{following}").decode() if self.store.check([f"beat/{following}"]) else ""
                silent = 0 if beat != last or beat == DONE else silent + 1
                last = beat
                if self.index == 0 and own % BEATS_BETWEEN_LOOKS == 0:
                    self._warn_of_waiting()
                told += self.store.check(["failure"])
                if silent >= BEATS_UNTIL_SILENT:
                    self.tell(self._describe([following]))
                if silent >= BEATS_UNTIL_SILENT or told >= BEATS_UNTIL_EXIT:
                    # The main thread waits in native code, where no exception reaches it.
                    print(f"error: {self.store.get('failure').decode()}", file=sys.stderr, flush=True)
                    os._exit(1)
            except RuntimeError:
                return  # the store has ended, and with it the launcher or the main process


def stops_together(run: Callable[..., Result]) -> Callable[..., Result]:
    """Lets all processes of a run end with a sentence on the one that ended first.

    Args:
        run: a function that all processes run, and that makes the accelerator.

    Returns:
        The function. It raises ConnectionError if another process has ended or does not answer.
    """

    @functools.wraps(run)
    def wrapped(*arguments: Any, **named: Any) -> Result:
        with _watched():
            return run(*arguments, **named)

    return wrapped


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of any kind: the others are to hear of it
        watch = ProcessWatch.current
        if watch is None:
            raise
        if _is_of_communication(error):
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun stops the others; this one ends by itself
            error = ConnectionError(watch.describe_failure())
        # The others may wait for this process in vain, and are to say why.
        watch.tell(f"Process {watch.index} of {watch.count} has stopped: {error}")
        if isinstance(error, ValueError | OSError) and not watch.is_first_to_say(str(error)):
            raise SystemExit(2) from error
        raise error
    finally:
        if ProcessWatch.current is not None:
            ProcessWatch.current.end()


def _is_of_communication(error: Exception) -> bool:
    """Returns True if communication between processes failed: backends raise a RuntimeError with their name."""
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(name in str(error).lower() for name in ("gloo", "nccl", "c10d"))

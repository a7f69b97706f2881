"""Stops a run at SIGTERM and at Ctrl-C without losing an update.

Within `StopSignals`, a signal does not end the process. It is noted, and the training loop stops after the update
that it is in. Where nothing is lost, as in an evaluation, the code says `interruptible()`, and a signal ends that
part at once. Python handles signals in the main thread only, so elsewhere nothing changes.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from papers_to_gpt.settings.arguments import Terminated, raise_lost_interruption


class StopRequested(BaseException):
    """A signal arrived in a part of the program that may be left at once."""


class StopSignals:
    """Notes SIGTERM and the first Ctrl-C instead of ending the process; a second Ctrl-C ends it at once.

    Args:
        grace_seconds: time that an update has to end after a signal. Then what is within `abandonable()` is left.
            None waits for the update.
    """

    current: "StopSignals | None" = None

    def __init__(self, grace_seconds: float | None = None):
        self.grace_seconds = grace_seconds
        self.received: int | None = None
        self._leave_at_once = self._leave_after_grace = self.grace_is_over = False
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        raise_lost_interruption()
        if threading.current_thread() is threading.main_thread():
            handlers = {signal.SIGTERM: self._note, signal.SIGALRM: self._end_grace}
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as a shell script starts its background jobs
                handlers[signal.SIGINT] = self._note
            self._earlier = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        StopSignals.current = self
        return self

    def __exit__(self, *error: object) -> None:
        StopSignals.current = None
        if self._earlier:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is None:
            self.received = number
            if self.grace_seconds is not None:
                signal.setitimer(signal.ITIMER_REAL, max(self.grace_seconds, 1e-3))
        if self._leave_at_once:
            raise StopRequested

    def _end_grace(self, number: int, frame: FrameType | None) -> None:
        self.grace_is_over = True
        if self._leave_after_grace:
            raise StopRequested

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Lets a signal, or one that came before, end the block at once by `StopRequested`."""
        outer, self._leave_at_once = self._leave_at_once, True
        try:
            if self.received is not None:
                raise StopRequested
            yield
        finally:
            self._leave_at_once = outer

    @contextlib.contextmanager
    def abandonable(self) -> Iterator[None]:
        """Ends the block by `StopRequested` once the time of grace after a signal is over."""
        self._leave_after_grace = True
        try:
            if self.grace_is_over:
                raise StopRequested
            yield
        finally:
            self._leave_after_grace = False

    def interruption(self, message: str) -> KeyboardInterrupt:
        """Returns the exception that ends the program with a message and with 143 for SIGTERM or 130 for Ctrl-C."""
        return Terminated(message) if self.received == signal.SIGTERM else KeyboardInterrupt(message)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Marks a part that a signal may end at once; without `StopSignals` around it, nothing changes."""
    stopping = StopSignals.current
    with stopping.interruptible() if stopping else contextlib.nullcontext():
        yield

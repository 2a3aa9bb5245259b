"""Signals that end a run while it is under way: held off within a step, at once elsewhere."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from epi_bench.runs.interruption import ENDING, Interrupt, RunInterruptedError

SIGNALS = (signal.SIGINT, *ENDING)


class StopSignals:
    """Whether a run has been asked to stop.

    A second Ctrl-C ends the run at once, whatever it is doing. A SIGTERM or SIGHUP that comes
    second does not: batch systems send it to all processes of a job, and whoever started one passes
    it on.

    Attributes:
        requested: Number of the signal that asked, or ``None``.

    Example:
        .. code-block:: python

            signals = StopSignals()
            with signals.caught():
                with signals.held_off():
                    ...  # a signal has no effect here but for ``signals.requested``
                ...      # it is raised here at the latest
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._held = 0

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Take over the signals, where they are nobody's yet and this is the main thread."""
        before = {}
        if threading.current_thread() is threading.main_thread():
            unclaimed = (signal.SIG_DFL, signal.default_int_handler)
            before = {n: signal.getsignal(n) for n in SIGNALS}
            before = {
                n: handler
                for n, handler in before.items()
                if handler in unclaimed or isinstance(handler, Interrupt)
            }
        try:
            for number in before:
                signal.signal(number, self._take)
            yield
        finally:
            for number, handler in before.items():
                is_done = self.requested is not None and isinstance(handler, Interrupt)
                signal.signal(number, signal.SIG_IGN if is_done else handler)

    @contextmanager
    def held_off(self) -> Iterator[None]:
        """Let nothing come in between; a signal that came meanwhile is raised at the end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self.requested is not None and not self._held:
            raise RunInterruptedError(self.requested)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.requested is None:
            self.requested = number
            if self._held:
                return
        elif number in ENDING:
            return
        raise RunInterruptedError(self.requested)

"""Ctrl-C, SIGTERM and SIGHUP while a run is under way: held off within a step, at once elsewhere.

SIGHUP comes when a terminal is closed. It stops a run as SIGTERM does, with a checkpoint: who closes
a terminal expects its programs to end. Under ``nohup`` it is ignored, and stays so.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

HANG_UP = getattr(signal, "SIGHUP", None)
"""Windows does not know it."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, *((HANG_UP,) if HANG_UP is not None else ()))


class RunInterruptedError(KeyboardInterrupt):
    """A run was stopped by a signal.

    Args:
        signal_number: Which one; that of Ctrl-C if left out.
        hint: How to go on, as the end of a sentence.
    """

    def __init__(self, signal_number: int = signal.SIGINT, hint: str = "") -> None:
        super().__init__(hint)
        self.signal_number = signal_number
        self.hint = hint

    @property
    def exit_code(self) -> int:
        """As shells have it: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
        return 128 + self.signal_number


class StopSignals:
    """Whether a run has been asked to stop.

    A second signal ends the run at once, whatever it is doing.

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
            before = {n: handler for n, handler in before.items() if handler in unclaimed}
        try:
            for number in before:
                signal.signal(number, self._take)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

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
        is_second = self.requested is not None
        if is_second and number == HANG_UP:  # the shell sends it too, after the terminal
            return
        self.requested = number
        if is_second or not self._held:
            raise RunInterruptedError(number)

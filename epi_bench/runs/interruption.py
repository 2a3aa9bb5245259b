"""A run or a command that is ended by Ctrl-C or SIGTERM, with which machines are taken away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and after SIGTERM: 128 and the signal's number."""


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
        """As shells have it: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.signal_number


def exit_code(interruption: KeyboardInterrupt) -> int:
    """What a process exits with that was ended so."""
    if isinstance(interruption, RunInterruptedError):
        return interruption.exit_code
    return INTERRUPTED


class Interrupt:
    """Handles SIGTERM: raises :class:`RunInterruptedError` once, and changes nothing then."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle it."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise RunInterruptedError(number)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Raise :class:`RunInterruptedError` at the first SIGTERM inside; further ones change nothing.

    Batch systems send it to every process of a job, and whoever started a process passes it on: the
    second one must not end the clearing up that the first has begun. Outside the main thread, which
    alone may handle signals, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, Interrupt())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

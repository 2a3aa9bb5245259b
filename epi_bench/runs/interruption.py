"""A run or a command that is ended by a signal.

Ctrl-C sends SIGINT, machines are taken away with SIGTERM, and a terminal that is closed sends
SIGHUP. Who closes it expects its programs to end, so SIGHUP ends a run as SIGTERM does, with a
checkpoint. Under ``nohup`` it is ignored, and stays so.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))
"""Signals that are sent more than once; Windows does not know the second."""

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
        """As shells have it: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
        return 128 + self.signal_number


def exit_code(interruption: KeyboardInterrupt) -> int:
    """What a process exits with that was ended so."""
    if isinstance(interruption, RunInterruptedError):
        return interruption.exit_code
    return INTERRUPTED


class Interrupt:
    """Handles :data:`ENDING`: raises :class:`RunInterruptedError` once, then nothing more."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle it."""
        for ending in ENDING:
            signal.signal(ending, signal.SIG_IGN)
        raise RunInterruptedError(number)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Raise :class:`RunInterruptedError` at the first SIGTERM or SIGHUP; others change nothing.

    Batch systems send it to every process of a job, and whoever started a process passes it on, as
    a shell does after its terminal: the second one must not end the clearing up that the first has
    begun. Outside the main thread, which alone may handle signals, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    handle = Interrupt()
    for number, handler in before.items():
        if number == signal.SIGTERM or handler is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

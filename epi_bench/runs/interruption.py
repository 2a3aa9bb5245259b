"""SIGTERM, with which machines are taken away, ends runs as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and after SIGTERM: 128 and the signal's number."""


class Terminated(KeyboardInterrupt):
    """This process was asked to end by SIGTERM."""


def exit_code(interruption: KeyboardInterrupt) -> int:
    """What a process exits with that was ended so."""
    return TERMINATED if isinstance(interruption, Terminated) else INTERRUPTED


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Raise :class:`Terminated` at the first SIGTERM inside; further ones change nothing.

    Batch systems send it to every process of a job, and whoever started a process passes it on: the
    second one must not end the clearing up that the first has begun. Outside the main thread, which
    alone may handle signals, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

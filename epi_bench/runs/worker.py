"""The side of :mod:`epi_bench.runs.child` that asks: starts the process, gives it orders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from epi_bench.foreign_text import for_terminal
from epi_bench.runs.order import Order

COMMAND = (sys.executable, "-m", "epi_bench.runs.child")

LONGEST_LAST_WORDS = 65536
"""Bytes of the error output that are looked at."""


class Worker:
    """A process that makes one run after the other.

    It has a session of its own, so that Ctrl-C on the terminal reaches the command alone.

    Args:
        tell: Called from another thread with each message of the process, and with ``None`` when
            the process says no more.
        variables: Environment variables beside those of this process.
    """

    def __init__(
        self,
        tell: Callable[[Worker, dict[str, Any] | None], None],
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        self._said_before = 0
        self._ready = False
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **(variables or {})},
            start_new_session=True,
        )
        threading.Thread(target=self._listen, args=(tell,), daemon=True).start()

    def give(self, order: Order) -> None:
        """Have a run made; the one before must be done."""
        assert self._process.stdin is not None  # noqa: S101  (asked for above)
        self._said_before = os.fstat(self._errors.fileno()).st_size
        with suppress(BrokenPipeError):  # it has ended; what it said last tells why
            self._process.stdin.write(order.to_json() + b"\n")
            self._process.stdin.flush()

    def last_words(self, code: int | None) -> str:
        """Why the run at hand has no outcome.

        Args:
            code: With which its process ended; ``None`` if that is this very process.
        """
        if code is None:
            code = self._process.wait()
        file = self._errors.fileno()
        start = max(self._said_before, os.fstat(file).st_size - LONGEST_LAST_WORDS)
        said = os.pread(file, LONGEST_LAST_WORDS, start).decode("utf-8", "replace")
        return why_it_ended(code, said)

    def let_go(self) -> None:
        """Have it end: at once if it is idle, else when its run has written a checkpoint."""
        assert self._process.stdin is not None  # noqa: S101  (asked for above)
        with suppress(OSError):
            self._process.stdin.close()
        if not self._ready:  # it is importing, and would notice only afterwards
            self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait for its end after :meth:`let_go`; then it is killed.

        Args:
            seconds: To wait at most.
        """
        try:
            self._process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it and its run at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _listen(self, tell: Callable[[Worker, dict[str, Any] | None], None]) -> None:
        assert self._process.stdout is not None  # noqa: S101  (asked for above)
        with self._process.stdout as lines:
            for line in lines:
                message = json.loads(line)
                self._ready = self._ready or "ready" in message
                tell(self, message)
        tell(self, None)


def why_it_ended(code: int, said: str) -> str:
    """Why a process ended, in one line: the signal, its last words, or its exit code.

    Args:
        code: As :class:`subprocess.Popen` gives it.
        said: What it has written to its error output.

    >>> why_it_ended(1, "loading\\nno such cluster")
    'no such cluster'
    >>> why_it_ended(-15, "loading")
    'its process was ended by SIGTERM'
    """
    if code == -signal.SIGKILL:
        return "its process was killed, as the system does when memory runs out"
    if code < 0:
        with suppress(ValueError):  # a signal without a name
            return f"its process was ended by {signal.Signals(-code).name}"
    lines = said.strip().splitlines()
    return for_terminal(lines[-1]) if lines else f"its process ended with code {code}"

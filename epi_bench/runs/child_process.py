"""The side of :mod:`epi_bench.runs.child` that asks: starts the process, reads what it says."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from epi_bench.foreign_text import for_terminal
from epi_bench.runs.child import Order, outcome_from_json
from epi_bench.runs.observer import RunObserver, StepReport
from epi_bench.runs.request import RunOutcome

COMMAND = (sys.executable, "-m", "epi_bench.runs.child")

Event = dict[str, Any]
"""As :func:`epi_bench.runs.child.event_writer` writes it."""


class ChildProcess:
    """A run in a process of its own.

    Args:
        order: What it is to do.
    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def run(self, tell: Callable[[Event], None]) -> RunOutcome:
        """Start it, pass on its events, and wait for its outcome.

        Args:
            tell: Called with every event, in the order in which they happen.
        """
        with tempfile.TemporaryFile() as errors:
            outcome = None
            if not self._stopped:
                self._process = subprocess.Popen(
                    COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
                )
                outcome = self._converse(self._process, tell)
            return outcome or RunOutcome(self.order.spec, None, error=self._reason(errors))

    def stop(self) -> None:
        """End the process, or never start it."""
        self._stopped = True
        if self._process is not None:
            self._process.terminate()

    def _converse(
        self, process: subprocess.Popen[bytes], tell: Callable[[Event], None]
    ) -> RunOutcome | None:
        outcome = None
        with process:
            assert process.stdin is not None  # noqa: S101  (asked for above)
            assert process.stdout is not None  # noqa: S101
            with suppress(BrokenPipeError):  # it ended at once; its error output says why
                process.stdin.write(self.order.to_json())
                process.stdin.close()
            for line in process.stdout:
                message = json.loads(line)
                if "outcome" in message:
                    outcome = outcome_from_json(message["outcome"])
                else:
                    tell(message)
        return outcome

    def _reason(self, errors: IO[bytes]) -> str:
        """Why there is no outcome: the last words of the process."""
        errors.seek(0)
        lines = errors.read().decode("utf-8", "replace").strip().splitlines()
        if lines:
            return for_terminal(lines[-1])
        return f"its process ended with code {self._process.returncode if self._process else None}"


def pass_on(event: Event, observer: RunObserver) -> None:
    """Call the method of an observer that an event stands for."""
    arguments = event["arguments"]
    if event["event"] == "step_done":
        arguments = [StepReport(**arguments[0])]
    getattr(observer, event["event"])(*arguments)

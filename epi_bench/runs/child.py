"""One run in a process of its own: ``python -m epi_bench.runs.child``.

The order comes as JSON on the standard input. Lines of JSON go out, one an event, the last one the
outcome: ``{"event": "step_done", "arguments": [...]}``, ``{"outcome": {...}}``. Whatever else the
run prints, a plugin's own words for example, goes to the standard error output.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO

from epi_bench.errors import UserError
from epi_bench.plugins.loading import load_plugin_files
from epi_bench.runs.messages import event_writer, outcome_to_json
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.order import Order, order_from_json
from epi_bench.runs.request import RunOutcome
from epi_bench.task.files.selection import select_tasks

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def make_ordered_run(order: Order, observer: RunObserver) -> RunOutcome:
    """Register what the run names, and make it; a user error becomes the outcome."""
    from epi_bench.runs.launch import run_one
    from epi_bench.runs.quiet import quiet_libraries

    try:
        load_plugin_files(order.request.plugins)
        select_tasks([str(path) for path in order.request.task_files])
        with quiet_libraries():
            return run_one(order.spec, order.request, observer)
    except UserError as error:
        return RunOutcome(order.spec, None, error=str(error), settings=error.settings)


def main() -> int:
    """Read the order, make the run, write its events and its outcome."""
    channel = _own_output()

    def write(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    try:
        order = order_from_json(sys.stdin.buffer.read())
        write({"outcome": outcome_to_json(make_ordered_run(order, event_writer(write)))})
    except (KeyboardInterrupt, BrokenPipeError):  # the process that asked has gone
        return INTERRUPTED
    return 0


def _own_output() -> TextIO:
    """The standard output for events alone: what else is printed goes to the error output."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


if __name__ == "__main__":
    sys.exit(main())

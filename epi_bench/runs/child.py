"""One run in a process of its own: ``python -m epi_bench.runs.child``.

The order comes as JSON on the standard input. Lines of JSON go out, one an event, the last one the
outcome: ``{"event": "step_done", "arguments": [...]}``, ``{"outcome": {...}}``. Whatever else the
run prints, a plugin's own words for example, goes to the standard error output.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, TextIO

from pydantic import TypeAdapter

from epi_bench.errors import UserError
from epi_bench.plugins.loading import load_plugin_files
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.request import RunOutcome, RunRequest
from epi_bench.spec.run_spec import RunSpec
from epi_bench.task.files.selection import select_tasks

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


@dataclass(frozen=True)
class Order:
    """What a process is asked to do.

    Attributes:
        spec: The run.
        request: How it is made.
    """

    spec: RunSpec
    request: RunRequest

    def to_json(self) -> bytes:
        """The whole order: every field of both, ``None`` included."""
        return _ORDER.dump_json(self)


def order_from_json(content: bytes) -> Order:
    """The order that :meth:`Order.to_json` wrote."""
    return _ORDER.validate_json(content)


def outcome_to_json(outcome: RunOutcome) -> Any:
    """An outcome with its record as a JSON value."""
    return _OUTCOME.dump_python(outcome, mode="json")


def outcome_from_json(content: Any) -> RunOutcome:
    """The outcome that :func:`outcome_to_json` wrote."""
    return _OUTCOME.validate_python(content)


_ORDER = TypeAdapter(Order)
_OUTCOME = TypeAdapter(RunOutcome)

EVENTS = tuple(
    name
    for name, member in vars(RunObserver).items()
    if inspect.isfunction(member) and not name.startswith("_") and name != "for_run"
)
"""Methods of an observer that a run calls."""


def event_writer(write: Callable[[dict[str, Any]], None]) -> RunObserver:
    """An observer that writes every event down.

    Args:
        write: Takes an event as a JSON value.
    """
    observer = RunObserver()

    def writer_of(event: str) -> Callable[..., None]:
        def note(*arguments: Any) -> None:
            plain = [asdict(a) if is_dataclass(a) else a for a in arguments]  # type: ignore[arg-type]
            write({"event": event, "arguments": plain})

        return note

    for event in EVENTS:
        setattr(observer, event, writer_of(event))
    return observer


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

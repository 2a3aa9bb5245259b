"""What a run in another process says: its events, and its outcome, as JSON values."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from typing import Any

from pydantic import TypeAdapter

from epi_bench.runs.observer import RunObserver, StepReport
from epi_bench.runs.request import RunOutcome

Event = dict[str, Any]
"""``{"event": "step_done", "arguments": [...]}``: as :func:`event_writer` writes it."""

Message = Event | RunOutcome
"""What becomes known of a run that another process makes."""

EVENTS = tuple(
    name
    for name, member in vars(RunObserver).items()
    if inspect.isfunction(member) and not name.startswith("_") and name not in {"for_run", "closed"}
)
"""Methods of an observer that a run calls."""


def event_writer(write: Callable[[Event], None]) -> RunObserver:
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


def pass_on(event: Event, observer: RunObserver) -> None:
    """Call the method of an observer that an event stands for."""
    arguments = event["arguments"]
    if event["event"] == "step_done":
        arguments = [StepReport(**arguments[0])]
    getattr(observer, event["event"])(*arguments)


def outcome_to_json(outcome: RunOutcome) -> Any:
    """An outcome with its record as a JSON value."""
    return _OUTCOME.dump_python(outcome, mode="json")


def outcome_from_json(content: Any) -> RunOutcome:
    """The outcome that :func:`outcome_to_json` wrote."""
    return _OUTCOME.validate_python(content)


_OUTCOME = TypeAdapter(RunOutcome)

"""What a run reports while it is under way, and the event log that keeps it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step.

    Attributes:
        number: From 1, over the whole run.
        total: Steps of the whole run.
        experience: Name of the experience under way.
        experience_index: Its position, from 0.
        experience_count: Experiences of the run.
        loss: Mean loss of the step's supervised tokens, in nats.
        learning_rate: At this step.
    """

    number: int
    total: int
    experience: str
    experience_index: int
    experience_count: int
    loss: float
    learning_rate: float


class RunObserver:
    """Listens to a run; every method does nothing until it is overridden."""

    def run_started(self, run_id: str, title: str, total_steps: int, tasks: Sequence[str]) -> None:
        """Everything is loaded; nothing is trained yet."""

    def warning(self, message: str) -> None:
        """Something the user should know that does not stop the run."""

    def note(self, message: str) -> None:
        """Something worth a line that is no reason to worry."""

    def resumed(self, step: int, where: str) -> None:
        """The run goes on from a checkpoint: after which step, and where that is in words."""

    def checkpoint_saved(self, step: int, size: int, seconds: float) -> None:
        """What the run needs to go on is on the disk: its bytes, and how long the writing took."""

    def stage(self, name: str) -> None:
        """What the run does now: ``loading``, ``scoring``, ``training``, ..."""

    def preparing(self, what: str, done: int, total: int) -> None:
        """Long preparation before :meth:`run_started`: ``done`` of ``total`` examples."""

    def step_done(self, report: StepReport) -> None:
        """An optimizer step is complete."""

    def step_skipped(self, number: int, experience: str) -> None:
        """A step's gradients were not finite, so nothing was updated; reported before the step."""

    def scored(self, row: str, scores: Mapping[str, float]) -> None:
        """The model was scored on every task (0..100 by task name)."""

    def diagnostics(self, step: int, values: Mapping[str, float]) -> None:
        """What the strategy had to say after a step."""

    def run_ended(self, status: str, error: str | None) -> None:
        """The run is over: ``finished``, ``failed`` or ``interrupted``."""

    def for_run(self, title: str) -> RunObserver:
        """What listens to one of several runs at a time; without runs at a time it is not called.

        Args:
            title: Of the run, to tell it from the others.
        """
        return self

    def closed(self) -> None:
        """No more is to be heard of the run, which may never have started.

        It is called on what :meth:`for_run` gave.
        """


class Observers(RunObserver):
    """Passes everything on to several observers, in their order.

    It has every hook of :class:`RunObserver`, those included that are added later.
    """

    def __init__(self, *observers: RunObserver) -> None:
        self._observers = observers


def _pass_on(hook: str) -> Callable[..., None]:
    """The method of :class:`Observers` that calls a hook of each observer."""

    @wraps(getattr(RunObserver, hook))
    def call_each(self: Observers, *arguments: Any, **keywords: Any) -> None:
        for observer in self._observers:
            getattr(observer, hook)(*arguments, **keywords)

    return call_each


for _hook in vars(RunObserver):
    if not _hook.startswith("_"):
        setattr(Observers, _hook, _pass_on(_hook))


def logged_warnings(path: Path) -> list[str]:
    """The warnings in an event log, each once; none if there is no such file.

    A line that is cut short, as a process leaves it that is killed, is passed over.
    """
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            events.append(json.loads(line))
    found = (event for event in events if isinstance(event, dict))
    return list(dict.fromkeys(e["message"] for e in found if e.get("event") == "warning"))


class EventLog(RunObserver):
    """Writes events as JSON lines, one flushed line an event, steps every ``log_every``.

    Args:
        path: The file.
        log_every: Steps between two logged steps.
        goes_on: Whether the events are added to those of an earlier process; else an old file is
            replaced.
    """

    def __init__(self, path: Path, log_every: int, *, goes_on: bool = False) -> None:
        is_cut = goes_on and path.is_file() and not path.read_bytes().endswith(b"\n")
        self._file: IO[str] = path.open("a" if goes_on else "w", encoding="utf-8")
        self._log_every = log_every
        if is_cut:  # the process before was killed within a line
            self._file.write("\n")

    def note(self, message: str) -> None:
        self._write("note", message=message)

    def resumed(self, step: int, where: str) -> None:
        self._write("resumed", step=step, where=where)

    def checkpoint_saved(self, step: int, size: int, seconds: float) -> None:
        self._write("checkpoint", step=step, bytes=size, seconds=round(seconds, 3))

    def run_started(self, run_id: str, title: str, total_steps: int, tasks: Sequence[str]) -> None:
        self._write("run_started", run_id=run_id, title=title, steps=total_steps, tasks=list(tasks))

    def warning(self, message: str) -> None:
        self._write("warning", message=message)

    def step_skipped(self, number: int, experience: str) -> None:
        self._write("step_skipped", step=number, experience=experience)

    def step_done(self, report: StepReport) -> None:
        if report.number % self._log_every == 0:
            self._write(
                "step",
                step=report.number,
                experience=report.experience,
                loss=report.loss,
                learning_rate=report.learning_rate,
            )

    def scored(self, row: str, scores: Mapping[str, float]) -> None:
        self._write("scored", row=row, scores=dict(scores))

    def diagnostics(self, step: int, values: Mapping[str, float]) -> None:
        if values:
            self._write("diagnostics", step=step, values=dict(values))

    def run_ended(self, status: str, error: str | None) -> None:
        self._write("run_ended", status=status, error=error)
        self._file.close()

    def _write(self, event: str, **content: Any) -> None:
        self._file.write(json.dumps({"event": event, **content}) + "\n")
        self._file.flush()

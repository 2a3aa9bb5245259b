"""Live progress of runs in a notebook: one output that is rewritten in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Self

from epi_bench.foreign_text import for_html
from epi_bench.runs.observer import RunObserver, StepReport

SECONDS_BETWEEN = 0.2
"""The output is rewritten no more often than this."""


@dataclass
class _Bar:
    title: str
    done: int = 0
    total: int = 0
    status: str = ""

    def html(self) -> str:
        value = f'value="{self.done}" max="{self.total}"' if self.total else ""
        counted = f"{self.done}/{self.total}" if self.total else ""
        return (
            f"<div>{for_html(self.title)} <progress {value}></progress> {counted} "
            f"{for_html(self.status)}</div>"
        )


class NotebookProgress(RunObserver):
    """A progress bar for each run under way and the warnings; nothing stays but the warnings.

    Use as a context manager. What it shows is a single output of the cell, so that no bar is left
    torn, and no widget has to be installed.

    Args:
        show: Shows HTML, each time in place of the time before; ``None`` uses IPython's display.
    """

    def __init__(self, show: Callable[[str], None] | None = None) -> None:
        self._show = show or _display_in_place()
        self._bars: list[_Bar] = []
        self._warnings: list[str] = []
        self._notes: list[str] = []
        self._last = float("-inf")
        self._own = _BarOf(self, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.clear()
        self.draw(now=True)

    def for_run(self, title: str) -> RunObserver:
        """A bar for one of several runs at a time."""
        return _BarOf(self, title)

    def run_started(self, run_id: str, title: str, total_steps: int, tasks: Sequence[str]) -> None:
        self._own.run_started(run_id, title, total_steps, tasks)

    def stage(self, name: str) -> None:
        self._own.stage(name)

    def preparing(self, what: str, done: int, total: int) -> None:
        self._own.preparing(what, done, total)

    def step_done(self, report: StepReport) -> None:
        self._own.step_done(report)

    def run_ended(self, status: str, error: str | None) -> None:
        self._own.run_ended(status, error)

    def warning(self, message: str) -> None:
        if message not in self._warnings:
            self._warnings.append(message)
            self.draw(now=True)

    def note(self, message: str) -> None:
        self._notes.append(message)
        self.draw(now=True)

    def add(self, bar: _Bar) -> None:
        """Show a further bar."""
        self._bars.append(bar)
        self.draw(now=True)

    def remove(self, bar: _Bar) -> None:
        """Show it no longer."""
        self._bars = [shown for shown in self._bars if shown is not bar]
        self.draw(now=True)

    def draw(self, now: bool = False) -> None:
        """Rewrite the output, unless it was a moment ago."""
        time = monotonic()
        if now or time - self._last >= SECONDS_BETWEEN:
            self._last = time
            lines = [f"<div>warning: {for_html(message)}</div>" for message in self._warnings]
            lines += [f"<div>{for_html(message)}</div>" for message in self._notes]
            self._show("\n".join([*lines, *(bar.html() for bar in self._bars)]))


class _BarOf(RunObserver):
    """The bar of one run."""

    def __init__(self, display: NotebookProgress, title: str) -> None:
        self._display = display
        self._title = title
        self._bar: _Bar | None = None

    def run_started(self, run_id: str, title: str, total_steps: int, tasks: Sequence[str]) -> None:
        self._change(title=self._title or title, done=0, total=total_steps)

    def warning(self, message: str) -> None:
        self._display.warning(message)

    def stage(self, name: str) -> None:
        self._change(status=name)

    def preparing(self, what: str, done: int, total: int) -> None:
        self._change(status=f"{what}: {done}/{total}")

    def step_done(self, report: StepReport) -> None:
        status = f"{report.experience}, loss {report.loss:.3f}"
        self._change(done=report.number, status=status)

    def scored(self, row: str, scores: Mapping[str, float]) -> None:
        self._change(status=f"scored after {row}")

    def run_ended(self, status: str, error: str | None) -> None:
        self.closed()

    def closed(self) -> None:
        if self._bar is not None:
            self._display.remove(self._bar)
            self._bar = None

    def _change(self, **values: Any) -> None:
        if self._bar is None:
            self._bar = _Bar(self._title, **values) if "title" not in values else _Bar(**values)
            self._display.add(self._bar)
            return
        for name, value in values.items():
            setattr(self._bar, name, value)
        self._display.draw()


def _display_in_place() -> Callable[[str], None]:
    from IPython.display import HTML, display

    handle: Any = display(HTML(""), display_id=True)
    return lambda html: handle.update(HTML(html))

"""Live progress of runs on a terminal, and which display a caller gets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from epi_bench.api.side_by_side import RunRows
from epi_bench.foreign_text import for_terminal
from epi_bench.runs.observer import RunObserver, StepReport
from epi_bench.tables import lasting_output, make_console, wrap_cells

NARROW, WIDE = 80, 100
"""Characters of a line below which the bar is short, and from which the time spent is shown."""


@contextmanager
def progress_of(observer: RunObserver | None) -> Iterator[RunObserver]:
    """What listens to the runs that a caller asks for.

    Args:
        observer: The caller's own; ``None`` chooses: a progress display in a notebook or on a
            terminal, else the log ``epi_bench``, which gets the warnings.
    """
    if observer is not None:
        yield observer
        return
    console = make_console()
    if console.is_jupyter:
        from epi_bench.api.notebook_progress import NotebookProgress

        with NotebookProgress() as shown:
            yield shown
    elif console.is_terminal:
        with lasting_output(), LiveProgress(console) as live:  # the terminal may be closed
            yield live
    else:
        yield LoggedWarnings()


class LoggedWarnings(RunObserver):
    """Passes warnings on to Python's logging and says nothing else."""

    def warning(self, message: str) -> None:
        logging.getLogger("epi_bench").warning("%s", for_terminal(message))

    def note(self, message: str) -> None:
        logging.getLogger("epi_bench").info(message)


class LiveProgress(RunObserver):
    """A progress bar with experience, step, loss and time left, and a line for each scoring.

    Use as a context manager; the bar disappears at its end. Runs at a time have a bar each.

    Args:
        console: Where to draw.
        wording: Rewords a warning for its readers, such as by adding flags to names of settings.
    """

    def __init__(self, console: Console, wording: Callable[[str], str] = str) -> None:
        self._console = console
        self._wording = wording
        self._progress = Progress(*_bar_columns(console.width), console=console, transient=True)
        self._bar: TaskID | None = None
        self._preparation: TaskID | None = None
        self._rows: RunRows | None = None
        self._warned: set[str] = set()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def for_run(self, title: str) -> RunObserver:
        """A row for one of several runs at a time; a line says when it starts and when it ends."""
        if self._rows is None:
            self._rows = RunRows(self._progress, self, self._console.width)
        return self._rows.row(title)

    def run_started(self, run_id: str, title: str, total_steps: int, tasks: Sequence[str]) -> None:
        line = f"{title}  run {run_id}: {', '.join(tasks)}"
        self._console.print(line, style="bold", highlight=False, markup=False)
        if self._bar is not None:
            self._progress.remove_task(self._bar)
        self._bar = self._progress.add_task("starting", total=total_steps, status="")

    def warning(self, message: str) -> None:
        line = for_terminal(f"warning: {self._wording(message)}")
        self._console.print(line, style="yellow")

    def note(self, message: str) -> None:
        self.say(message)

    def warn_once(self, message: str) -> None:
        """Print a warning that several runs may have in common."""
        if message not in self._warned:
            self._warned.add(message)
            self.warning(message)

    def say(self, line: str, style: str = "") -> None:
        """Print a line above the bars."""
        self._console.print(line, style=style, highlight=False, markup=False)

    def stage(self, name: str) -> None:
        if self._bar is None:
            self._bar = self._progress.add_task(name, total=None, status="")
        self._progress.update(self._bar, description=name)

    def preparing(self, what: str, done: int, total: int) -> None:
        if self._preparation is None:
            self._preparation = self._progress.add_task(what, total=total, status="")
        self._progress.update(self._preparation, description=what, completed=done)
        if done >= total:
            self._progress.remove_task(self._preparation)
            self._preparation = None

    def step_done(self, report: StepReport) -> None:
        if self._bar is None:
            return
        name = f"{report.experience} ({report.experience_index + 1}/{report.experience_count})"
        self._progress.update(
            self._bar,
            completed=report.number,
            description=name,
            status=f"loss {report.loss:.3f}",
        )

    def scored(self, row: str, scores: Mapping[str, float]) -> None:
        cells = [f"{name} {score:.0f}" for name, score in scores.items()]
        line = wrap_cells(f"  {row}:  ", cells, self._console.width)
        self._console.print(line, highlight=False, markup=False)

    def run_ended(self, status: str, error: str | None) -> None:
        if self._bar is not None:
            self._progress.remove_task(self._bar)
            self._bar = None
        if error:
            self._console.print(for_terminal(f"run {status}: {error}"), style="red")


def _bar_columns(width: int) -> list[ProgressColumn]:
    """What fits in a line."""
    return [
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=6 if width < NARROW else 20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}", markup=False),
        *([TimeElapsedColumn()] if width >= WIDE else []),
        TextColumn("left"),
        TimeRemainingColumn(compact=width < WIDE),
    ]

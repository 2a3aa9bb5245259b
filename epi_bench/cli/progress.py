"""Live progress of a run in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from epi_bench.cli.flag_names import with_flags
from epi_bench.runs.observer import RunObserver, StepReport


class LiveProgress(RunObserver):
    """A progress bar with experience, step, loss and time left, and a line for each scoring.

    Use as a context manager; the bar disappears at its end.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._bar: TaskID | None = None
        self._preparation: TaskID | None = None

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

    def run_started(self, run_id: str, title: str, total_steps: int, tasks: Sequence[str]) -> None:
        self._console.print(f"[bold]{title}[/bold]  run {run_id}: {', '.join(tasks)}")
        if self._bar is not None:
            self._progress.remove_task(self._bar)
        self._bar = self._progress.add_task("starting", total=total_steps, status="")

    def warning(self, message: str) -> None:
        self._console.print(f"warning: {with_flags(message)}", style="yellow", markup=False)

    def stage(self, name: str) -> None:
        if self._bar is not None:
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
        cells = "  ".join(f"{name} {score:.0f}" for name, score in scores.items())
        self._console.print(f"  {row}:  {cells}", highlight=False, markup=False, soft_wrap=True)

    def run_ended(self, status: str, error: str | None) -> None:
        if self._bar is not None:
            self._progress.remove_task(self._bar)
            self._bar = None
        if error:
            self._console.print(f"run {status}: {error}", style="red", markup=False)

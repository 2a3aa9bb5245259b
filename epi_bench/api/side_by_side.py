"""The rows of runs that are made at the same time, in the display of a command's progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from epi_bench.foreign_text import for_terminal
from epi_bench.runs.observer import RunObserver, StepReport

SHARE = 0.28
"""Of a line, for the title and for the status at most; what is longer is cut."""

NARROW, WIDE = 60, 100
"""Characters of a line below which there is no bar, and from which it is long."""


class Speaker(Protocol):
    """Prints lines above the rows."""

    def say(self, line: str, style: str = "") -> None:
        """Print a line."""

    def warn_once(self, message: str) -> None:
        """Print a warning that several runs may have in common."""


class RunRows:
    """A row for each run under way, and one that counts them.

    Args:
        progress: The display; it gets other columns.
        speaker: Prints what is said beside the rows.
        width: Of a line, in characters.
    """

    def __init__(self, progress: Progress, speaker: Speaker, width: int) -> None:
        progress.columns = _columns(width)
        self.progress = progress
        self.speaker = speaker
        self._count = progress.add_task("runs", total=0, status="")
        self._runs = self._done = 0

    def row(self, title: str) -> RunObserver:
        """What listens to a further run; its row is there from its first word to its end."""
        self._runs += 1
        self.progress.update(self._count, total=self._runs)
        return _Row(self, title)

    def count_done(self) -> None:
        """One run has come to its end."""
        self._done += 1
        self.progress.update(self._count, completed=self._done)


class _Row(RunObserver):
    """One run: a row, and a line at its start and at its end."""

    def __init__(self, rows: RunRows, title: str) -> None:
        self._rows = rows
        self._progress = rows.progress
        self._title = for_terminal(title)
        self._bar: TaskID | None = None

    def run_started(self, run_id: str, title: str, total_steps: int, tasks: Sequence[str]) -> None:
        self._rows.speaker.say(f"{self._title}: started, run {for_terminal(run_id)}")
        self._progress.update(self._shown(), total=total_steps)

    def warning(self, message: str) -> None:
        self._rows.speaker.warn_once(message)

    def note(self, message: str) -> None:
        self._rows.speaker.say(f"{self._title}: {for_terminal(message)}")

    def resumed(self, step: int, where: str) -> None:
        self._progress.reset(self._shown(), completed=step)  # so that its speed is that of now

    def stage(self, name: str) -> None:
        self._tell(name)

    def preparing(self, what: str, done: int, total: int) -> None:
        self._tell(f"{what}, {done} of {total}")

    def step_done(self, report: StepReport) -> None:
        self._progress.update(self._shown(), completed=report.number)
        self._tell(f"{report.experience}, loss {report.loss:.3f}")

    def scored(self, row: str, scores: Mapping[str, float]) -> None:
        self._tell(f"scored after {row}")

    def run_ended(self, status: str, error: str | None) -> None:
        self._rows.speaker.say(f"{self._title}: {status}", style="red" if error else "")

    def closed(self) -> None:
        if self._bar is not None:
            self._progress.remove_task(self._bar)
            self._bar = None
        self._rows.count_done()

    def _tell(self, status: str) -> None:
        self._progress.update(self._shown(), status=for_terminal(status))

    def _shown(self) -> TaskID:
        if self._bar is None:
            self._bar = self._progress.add_task(self._title, total=None, status="")
        return self._bar


class _Steps(ProgressColumn):
    """How many steps are done; nothing before their number is known."""

    def render(self, task: Task) -> Text:
        """The two numbers."""
        return Text("" if task.total is None else f"{int(task.completed)}/{int(task.total)}")


def _columns(width: int) -> tuple[ProgressColumn, ...]:
    """Title, bar, steps, status and time left, each in one line."""

    def text(template: str, style: str = "none") -> TextColumn:
        column = Column(no_wrap=True, overflow="ellipsis", max_width=int(width * SHARE))
        return TextColumn(template, style=style, markup=False, table_column=column)

    bars = (BarColumn(bar_width=6 if width < WIDE else 20),) if width >= NARROW else ()
    return (
        text("{task.description}", "bold"),
        *bars,
        _Steps(table_column=Column(no_wrap=True, justify="right")),
        text("{task.fields[status]}"),
        TimeRemainingColumn(compact=True),
    )

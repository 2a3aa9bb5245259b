"""The rows of runs that are made at the same time."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from epi_bench.api.progress import LiveProgress
from epi_bench.runs.observer import StepReport

REFERENCE = "reference of a_task_with_a_rather_long_name"


def frame(progress):
    """What the display shows now, line by line."""
    shown = io.StringIO()
    console = Console(file=shown, width=progress._console.width, color_system=None)
    console.print(progress._progress.get_renderable())
    return [line.rstrip() for line in shown.getvalue().splitlines() if line.strip()]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_every_run_is_one_line_that_fits(width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with LiveProgress(console) as progress:
        first, second, third = (
            progress.for_run(title) for title in ("epi, seed 0", REFERENCE, "ewc, seed 0")
        )
        assert len(frame(progress)) == 1  # nothing has begun
        first.stage("loading the model")
        second.run_started("id", "title", 2000, ["a"])
        second.step_done(StepReport(120, 2000, "mini_instruct", 3, 5, 1.7531, 1e-3))
        lines = frame(progress)
        assert len(lines) == 3
        assert max(map(len, lines)) <= width
        assert "0/3" in lines[0]
        assert lines[1].startswith("epi, seed 0")
        assert lines[2].startswith("reference")
        assert "120/2000" in lines[2]
        if width >= 80:
            assert "loading the model" in lines[1]
            assert "mini_instruct" in lines[2]
        first.run_ended("finished", None)
        first.closed()
        third.closed()  # never began
        lines = frame(progress)
        assert len(lines) == 2
        assert "2/3" in lines[0]
        assert lines[1].startswith("reference")


def test_a_resumed_run_shows_where_it_goes_on():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with LiveProgress(console) as progress:
        run = progress.for_run("epi, seed 0")
        run.run_started("id", "title", 2000, ["a"])
        run.resumed(1500, "experience a")
        assert "1500/2000" in frame(progress)[1]


def test_in_a_pipe_a_run_is_its_first_and_last_line():
    text = io.StringIO()
    with LiveProgress(Console(file=text, width=80)) as progress:
        run = progress.for_run("epi, seed 0")
        run.stage("loading the model")
        run.run_started("id", "title", 2000, ["a"])
        run.step_done(StepReport(120, 2000, "a", 3, 5, 1.7531, 1e-3))
        run.run_ended("finished", None)
        run.closed()
    lines = text.getvalue().strip().splitlines()
    assert lines == ["epi, seed 0: started, run id", "epi, seed 0: finished"]

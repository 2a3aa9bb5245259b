"""Progress of runs on terminals of several widths."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from rich.console import Console

from epi_bench.api.progress import LiveProgress
from epi_bench.results.tables import UNLIMITED
from epi_bench.runs.observer import StepReport

TASKS = ("mini_math", "mini_code", "mini_logic", "mini_instruct", "mini_chat")


def lines_of(width, *, terminal=True):
    """What was printed while a run went on, the bar at each of its states included."""
    console = Console(
        file=StringIO(), width=width, force_terminal=terminal, color_system=None, _environ={}
    )
    with LiveProgress(console) as progress:
        progress.run_started("abc123", "epi · [sequential] · seed 0", 100, TASKS)
        progress.warning("epi never protects anything: its warm-up is longer than the run of 4")
        for stage in ("scoring", "training mini_instruct"):
            progress.stage(stage)
            progress._progress.refresh()
        progress.step_done(StepReport(20, 100, "mini_instruct", 3, 5, 1.7531, 1e-3))
        progress._progress.refresh()
        progress.scored("mini_instruct", dict.fromkeys(TASKS, 62.5))
        progress.run_ended("finished", None)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_every_line_fits_and_breaks_between_words(width):
    lines = lines_of(width)
    assert max(map(len, lines)) <= width
    assert not [line for line in lines if "…" in line]
    words = " ".join(lines).split()
    for word in (*TASKS, "[sequential]", "abc123:", "1.753", "20/100", "protects"):
        assert {word, f"{word},"} & set(words), word


@pytest.mark.parametrize("width", [60, 80])
def test_a_score_stays_beside_its_task(width):
    text = "\n".join(lines_of(width))
    for task in TASKS:
        assert f"{task} 62" in text


def test_in_a_pipe_a_scoring_is_one_line():
    (line,) = (line for line in lines_of(UNLIMITED, terminal=False) if "mini_instruct:" in line)
    assert line == "  mini_instruct:  " + "  ".join(f"{task} 62" for task in TASKS)

"""Progress in a notebook, of several runs at a time, and without anybody who looks."""

from __future__ import annotations

import io
import logging
import re

import pytest
from rich.console import Console

from epi_bench.api.notebook_progress import NotebookProgress
from epi_bench.api.progress import LiveProgress, progress_of
from epi_bench.runs.observer import RunObserver, StepReport


def report(number):
    return StepReport(number, 10, "a", 0, 1, 0.5, 1e-3)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_runs_at_a_time_say_when_they_start_and_end(is_terminal):
    text = io.StringIO()
    console = Console(file=text, width=60, force_terminal=is_terminal, color_system=None)
    with LiveProgress(console) as progress:
        first, second = progress.for_run("epi, seed 0"), progress.for_run("[b]x[/b], seed 0")
        first.run_started("id1", "t", 10, ["a"])
        second.run_started("id2", "t", 10, ["a"])
        for run in (first, second):
            run.warning("the same for both")
            run.stage("training")
            run.step_done(report(1))
        second.run_ended("failed", "loss is nan")
        first.run_ended("finished", None)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
    lines = [line.rstrip() for line in re.split(r"[\r\n]", plain)]
    said = [line for line in lines if line.startswith(("epi", "[b]", "warning"))]
    for line in (
        "epi, seed 0: started, run id1",
        "[b]x[/b], seed 0: started, run id2",
        "warning: the same for both",
        "[b]x[/b], seed 0: failed",
        "epi, seed 0: finished",
    ):
        assert said.count(line) == 1, text.getvalue()


def test_a_notebook_shows_one_output_and_keeps_the_warnings():
    shown = []
    with NotebookProgress(shown.append) as progress:
        progress.stage("reading data")
        progress.run_started("id", "epi <b>", 10, ["a"])
        progress.warning("careful <i>")
        progress.warning("careful <i>")
        assert 'max="10"' in shown[-1]
        assert "epi &lt;b&gt;" in shown[-1]
        progress.for_run("full_sft, seed 1").run_started("id2", "t", 5, ["a"])
        assert shown[-1].count("<progress") == 2
        before = len(shown)
        for number in range(1, 100):  # faster than anybody can look
            progress.step_done(report(number))
        assert len(shown) <= before + 2
        progress.run_ended("finished", None)
        assert shown[-1].count("<progress") == 1
    assert shown[-1] == "<div>warning: careful &lt;i&gt;</div>"


def test_without_a_terminal_warnings_are_logged(caplog, monkeypatch, capsys):
    monkeypatch.setenv("TERM", "dumb")
    with caplog.at_level(logging.WARNING), progress_of(None) as listener:
        listener.warning("careful")
        listener.run_started("id", "t", 10, ["a"])
        listener.step_done(report(1))
    assert [(record.name, record.message) for record in caplog.records] == [
        ("epi_bench", "careful")
    ]
    assert capsys.readouterr().out == ""


def test_an_observer_of_the_callers_own_is_the_one_that_listens():
    own = RunObserver()
    with progress_of(own) as listener:
        assert listener is own

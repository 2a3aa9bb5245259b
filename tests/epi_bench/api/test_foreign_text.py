"""Displays of runs under way, with hostile names, warnings and errors."""

from __future__ import annotations

import inspect
import io
import logging
import re

import pytest

from epi_bench.api.notebook_progress import NotebookProgress
from epi_bench.api.progress import LiveProgress, LoggedWarnings
from epi_bench.runs.observer import RunObserver, StepReport
from epi_bench.tables import make_console

HOSTILE = "[red]x[/] :skull: <b>\x1b[31m\x07\x9b2J\u202e\u200b\nnext"
SHOWN = r"[red]x[/] :skull: <b>\x1b[31m\x07\x9b2J\u202e\u200b next"


VALUES = {
    "str": HOSTILE,
    "str | None": HOSTILE,
    "int": 1,
    "float": 0.5,
    "Sequence[str]": [HOSTILE],
    "Mapping[str, float]": {HOSTILE: 1.0},
    "StepReport": StepReport(1, 3, HOSTILE, 0, 1, 0.5, 0.1),
}
"""What a hook is called with, by the type that it declares."""


def report_everything(observer):
    """Call each hook, those included that are added later, with hostile text in all places."""
    hooks = [name for name in vars(RunObserver) if not name.startswith("_")]
    order = ["preparing", "run_started", *sorted({*hooks} - {"preparing", "run_started"})]
    order = [*(hook for hook in order if hook not in ("for_run", "run_ended")), "run_ended"]
    for target in (observer, observer.for_run(HOSTILE)):
        for hook in order:
            declared = inspect.signature(getattr(RunObserver, hook)).parameters
            values = [VALUES[p.annotation] for name, p in declared.items() if name != "self"]
            getattr(target, hook)(*values)


@pytest.mark.parametrize("terminal", ["1", ""])
def test_on_a_terminal_and_in_a_pipe(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "300")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    with LiveProgress(make_console(file=file)) as display:
        report_everything(display)
    text = file.getvalue()
    assert f"warning: {SHOWN}" in text
    assert f": {SHOWN}" in text
    assert "\x1b[31mx" not in text
    own = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text)  # how rich moves the cursor and colours
    assert own.replace("\n", "").replace("\r", "").isprintable()
    assert "\u200b" not in own


def test_in_a_notebook():
    pages = []
    with NotebookProgress(pages.append) as display:
        report_everything(display)
    assert pages
    for page in pages:
        assert "<b>" not in page
        assert page.replace("\n", "").isprintable()
    assert any("&lt;b&gt;" in page for page in pages)


def test_in_a_log(caplog):
    with caplog.at_level(logging.WARNING, "epi_bench"):
        LoggedWarnings().warning(f"{HOSTILE} 100 %s")
    with caplog.at_level(logging.INFO, "epi_bench"):
        LoggedWarnings().note(f"{HOSTILE} 100 %s")
    assert caplog.messages == [f"{SHOWN} 100 %s"] * 2

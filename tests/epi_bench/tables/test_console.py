"""The console that output goes to, and lines that break between cells only."""

from __future__ import annotations

import io

import pytest
from rich.panel import Panel
from rich.progress import Progress, TextColumn
from rich.text import Text

from epi_bench.tables import UNLIMITED, make_console, wrap_cells


def test_lines_break_between_cells_only():
    cells = ["mini_math 10", "mini_code 20", "mini_instruct 30"]
    assert wrap_cells("  base:  ", cells, 36) == (
        "  base:  mini_math 10  mini_code 20\n         mini_instruct 30"
    )
    assert wrap_cells("  base:  ", cells, 10).split("\n")[0] == "  base:"


@pytest.mark.parametrize(("columns", "width"), [("77", 77), (None, UNLIMITED), ("", UNLIMITED)])
def test_a_pipe_is_as_wide_as_columns_says_or_as_needed(columns, width, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert make_console().width == width


HOSTILE = "[red]x[/] :skull: \x1b[31m\x9b2J\u202e\u200b"
SHOWN = r"[red]x[/] :skull: \x1b[31m\x9b2J\u202e\u200b"


@pytest.mark.parametrize("wrap", [str, Text, lambda text: Panel(Text(text)), lambda text: [text]])
def test_a_console_shows_foreign_text_whatever_it_is_wrapped_in(wrap):
    file = io.StringIO()
    make_console(file=file, width=200).print(wrap(HOSTILE))
    assert SHOWN.replace("\\", "") in file.getvalue().replace("\\", "")  # a list shows its repr
    assert "\x1b" not in file.getvalue()
    assert file.getvalue().rstrip("\n").replace("\n", "").isprintable()


def test_lines_and_styles_of_ones_own_stay():
    file = io.StringIO()
    make_console(file=file, width=80).print("one\ntwo", Text("three", style="bold"))
    assert file.getvalue() == "one\ntwo three\n"


def test_rich_still_draws_its_bars(monkeypatch):
    """Cursor movements are rich's own and stay; the description is text."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    file = io.StringIO()
    with Progress(TextColumn("{task.description}", markup=False), console=make_console(file=file),
                  transient=True) as progress:  # fmt: skip
        progress.add_task(HOSTILE, total=2)
    drawn = file.getvalue()
    assert "\x1b[2K" in drawn
    assert SHOWN[:20] in drawn  # rich cuts a description to the width that it had
    assert "\x1b[31m" not in drawn
    assert "\x9b" not in drawn

"""The console that output goes to, and lines that break between cells only."""

from __future__ import annotations

import pytest

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

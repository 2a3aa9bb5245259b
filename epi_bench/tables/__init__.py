"""Tables and lines that lose nothing, however wide the place is that they are printed to."""

from __future__ import annotations

from epi_bench.tables.console import UNLIMITED, make_console, wrap_cells
from epi_bench.tables.fitted_table import Cell, Column, FittedTable, markdown_row

__all__ = [
    "UNLIMITED",
    "Cell",
    "Column",
    "FittedTable",
    "make_console",
    "markdown_row",
    "wrap_cells",
]

"""Tables and lines that lose nothing, however wide the place is that they are printed to."""

from __future__ import annotations

from epi_bench.tables.console import UNLIMITED, make_console, wrap_cells
from epi_bench.tables.fitted_table import Cell, Column, FittedTable, markdown_row
from epi_bench.tables.standard_output import lasting_output

__all__ = [
    "UNLIMITED",
    "Cell",
    "Column",
    "FittedTable",
    "lasting_output",
    "make_console",
    "markdown_row",
    "wrap_cells",
]

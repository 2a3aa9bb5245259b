"""The console that output goes to: how wide it is, and lines that break between words only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

UNLIMITED = 100_000
"""Width of a console that nobody looks at: nothing is wrapped."""


def make_console(quiet: bool = False) -> Console:
    """The console of standard output.

    As wide as the terminal, or as ``COLUMNS`` says; in a pipe or a file without ``COLUMNS``, as
    wide as needed.
    """
    from rich.console import Console

    console = Console(quiet=quiet)
    if console.file.isatty() or os.environ.get("COLUMNS", "").isdigit():
        return console
    return Console(quiet=quiet, width=UNLIMITED)


def wrap_cells(first: str, cells: Sequence[str], width: int) -> str:
    """``first`` and then cells, in lines that break between cells and begin below each other.

    Args:
        first: Begins the first line; the others are indented by as much.
        cells: None of them is broken.
        width: Characters of a line; a cell that is longer has a line of its own.
    """
    from rich.cells import cell_len

    indent = min(cell_len(first), max(width // 3, 2))
    lines = [first]
    for cell in cells:
        if cell_len(lines[-1]) + cell_len(cell) > width and lines[-1].strip():
            lines.append(" " * indent)
        lines[-1] += f"{cell}  "
    return "\n".join(line.rstrip() for line in lines)

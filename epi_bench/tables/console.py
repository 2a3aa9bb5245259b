"""The console that output goes to: how wide it is, and lines that break between words only."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cache
from typing import IO, TYPE_CHECKING, Any

from epi_bench.foreign_text import for_terminal, terminal_text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

UNLIMITED = 100_000
"""Width of a console that nobody looks at: nothing is wrapped."""


def make_console(
    quiet: bool = False, *, file: IO[str] | None = None, width: int | None = None
) -> Console:
    """A console on which foreign text is text: no markup, no emoji codes, no terminal codes.

    As wide as the terminal, or as ``COLUMNS`` says; in a pipe or a file without ``COLUMNS``, as
    wide as needed.

    Args:
        quiet: Print nothing.
        file: Where to; ``None`` for standard output.
        width: Characters of a line, whatever the place; for texts that are kept, without colours.
    """
    console_type = _console_type()
    if width is not None:
        return console_type(
            quiet=quiet, file=file, width=width, color_system=None, force_jupyter=False
        )
    console = console_type(quiet=quiet, file=file)
    if console.file.isatty() or os.environ.get("COLUMNS", "").isdigit():
        return console
    return console_type(quiet=quiet, file=file, width=UNLIMITED)


@cache
def _console_type() -> type[Console]:
    """The class of every console of this package."""
    from rich.console import Console

    class LiteralConsole(Console):
        """Prints a string as it is, and writes out what is no visible text in anything else."""

        def print(self, *objects: Any, **options: Any) -> None:
            """Print objects as rich does, strings among them as plain text."""
            plain = [
                terminal_text(item, several_lines=True) if isinstance(item, str) else item
                for item in objects
            ]
            super().print(*plain, **options)

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterator[Segment]:
            """The parts of what is printed; only rich itself moves the cursor."""
            for segment in super().render(renderable, options):
                yield (
                    segment
                    if segment.control
                    else segment._replace(text=for_terminal(segment.text, several_lines=True))
                )

    return LiteralConsole


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

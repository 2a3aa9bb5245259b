"""Text that somebody else wrote, shown where it could be taken for more than text.

Names, rows, docstrings, file names, answers of servers and messages of exceptions may hold
terminal codes, markup or formulas. Each place has one function that shows them as they are; text
that holds nothing of the kind stays the same.
"""

from __future__ import annotations

from epi_bench.foreign_text.markup import for_html, for_markdown, markdown_code
from epi_bench.foreign_text.tabular import for_csv, json_text
from epi_bench.foreign_text.terminal import for_terminal, terminal_text

__all__ = [
    "for_csv",
    "for_html",
    "for_markdown",
    "for_terminal",
    "json_text",
    "markdown_code",
    "terminal_text",
]

"""Docstrings as a reader of the terminal wants them: without markup, wrapped to the width."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from epi_bench.foreign_text import for_terminal, terminal_text

if TYPE_CHECKING:
    from rich.console import Group

_LIST_ITEM = re.compile(r"^\s*(\d+\.|[-*])\s+")

_MARKUP = (
    (re.compile(r":[a-z:]+:`([^`<]+?)\s*<[^`>]+>`"), r"\1"),  # :role:`text <target>`
    (re.compile(r":[a-z:]+:`~(?:[\w.]*\.)?(\w+)`"), r"\1"),  # :role:`~package.name`
    (re.compile(r":[a-z:]+:`([^`]+)`"), r"\1"),
    (re.compile(r"``(.+?)``"), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<([^`>]+)>`__?"), r"\1 (\2)"),
)
"""What of reStructuredText docstrings use, and what remains of it."""


def without_markup(text: str) -> str:
    """Text of a docstring with its literals, references and links as plain text."""
    for pattern, plain in _MARKUP:
        text = pattern.sub(plain, text)
    return text


def first_sentence(item: Any) -> str:
    """The first line of a docstring in plain text; empty without one."""
    return for_terminal(without_markup((inspect.getdoc(item) or "").split("\n", 1)[0]))


def description(item: Any) -> Group:
    """A docstring without its ``Args``, which are shown as a table: paragraphs and lists."""
    from rich.console import Group
    from rich.table import Table

    shown: list[Any] = []
    for paragraph in _paragraphs((inspect.getdoc(item) or "").split("\nArgs:", 1)[0]):
        bullet = _LIST_ITEM.match(paragraph)
        if bullet is None:
            shown.append(terminal_text(without_markup(paragraph)))
            continue
        row = Table.grid(padding=(0, 1))
        text = without_markup(paragraph[bullet.end() :])
        row.add_row(*map(terminal_text, (bullet.group(1), text)))
        shown.append(row)
    return Group(*shown)


def _paragraphs(documentation: str) -> Iterator[str]:
    """The paragraphs and list items, each in one line; an empty one for an empty line."""
    lines: list[str] = []
    for line in documentation.rstrip().split("\n"):
        if lines and (not line.strip() or _LIST_ITEM.match(line)):
            yield " ".join(lines)
            lines = []
        if line.strip():
            lines.append(line.strip())
        else:
            yield ""
    yield " ".join(lines)

"""Code in a Markdown text: blocks between fences, indented blocks, code within lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_PYTHON = re.compile(r"\{?\s*\.?i?py", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FencedBlock:
    """A fenced block: what the fence says (``info``) and what lies in it."""

    info: str
    content: str

    @property
    def marked(self) -> bool:
        """Whether it is said to be Python, in any of the usual spellings."""
        return bool(_PYTHON.match(self.info))


def fenced_blocks(text: str) -> list[FencedBlock]:
    """The blocks between fences of back ticks or tildes, also in lists and quotations."""
    return [
        FencedBlock(token.info.strip(), token.content)
        for token in _markdown(inline=False).parse(text)
        if token.type == "fence"
    ]


def without_blocks(text: str) -> str:
    """The text with empty lines for its fenced blocks: what they use may stand before them."""
    lines = text.split("\n")
    for token in _markdown(inline=False).parse(text):
        if token.type == "fence":
            first, end = token.map
            lines[first:end] = [""] * (end - first)
    return "\n".join(lines)


def unfenced_code(text: str) -> list[str]:
    """Indented blocks, and code within lines."""
    return [token.content for token in _code_tokens(text)]


def _code_tokens(text: str) -> Iterator[Any]:
    for token in _markdown(inline=True).parse(text):
        if token.type == "code_block":
            yield token
        yield from (inner for inner in token.children or () if inner.type == "code_inline")


@lru_cache
def _markdown(inline: bool) -> Any:
    """A parser of what matters here: HTML and link definitions could hide a block."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").disable(["html_block", "reference", "heading", "lheading"])
    parser.core.ruler.enableOnly(["normalize", "block", *(["inline"] if inline else [])])
    parser.inline.ruler.enableOnly(["text", "backticks"])
    return parser

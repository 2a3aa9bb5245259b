"""Foreign text in CSV and JSON, which are read by programs and looked at on terminals."""

from __future__ import annotations

import json
import re
from typing import Any

from epi_bench.foreign_text.terminal import for_terminal, written_out

_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""What a formula begins with; spreadsheets read the wide forms alike."""

_NUMBER = re.compile(r"[+-]?[\d.,]+(e[+-]?\d+)?%?( ± [\d.,]+)?", re.IGNORECASE)


def for_csv(text: str) -> str:
    """Text as a cell of CSV that no spreadsheet takes for a formula.

    A cell that begins with ``=``, ``+``, ``-`` or ``@`` and is no number gets an apostrophe in
    front, which tells a spreadsheet that text follows; everything else stays, as one line.

    >>> for_csv("=1+1"), for_csv("-1.5"), for_csv("epi")
    ("'=1+1", '-1.5', 'epi')
    """
    shown = for_terminal(text)
    risky = shown.lstrip().startswith(_FORMULA) and not _NUMBER.fullmatch(shown)
    return f"'{shown}" if risky else shown


def json_text(content: Any, indent: int | None = 1) -> str:
    r"""Content as JSON whose text can be printed; read back, it is the same content.

    Letters of every script stay letters; what a terminal does not show is written as JSON writes
    it, such as ``\u202e``.

    Args:
        content: Anything that JSON can hold.
        indent: Spaces of a level; ``None`` for a single line.
    """
    return written_out(json.dumps(content, indent=indent, ensure_ascii=False), _escaped)


def _escaped(sign: str) -> str:
    """A character as JSON escapes it, also where JSON would not have to."""
    units = sign.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))

"""Foreign text on a terminal: what cannot be seen, or does something, is written out.

Written out are control characters (C0, DEL, C1), marks that turn the direction of text, characters
without width, halves of surrogate pairs, and what Unicode has not assigned. Everything that a
reader sees stays: letters of every script, combining marks, emoji, spaces of any width.

The joiners U+200C and U+200D and the variation selectors have no width either, but emoji, Persian,
and the scripts of India need them. They stay where they join what can be joined, and are written
out where they could only hide something.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

_LINE_BREAK = re.compile(r"\s*[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")

_PLAIN_OR_ONE = re.compile(r"([ -~\n]+)|.", re.DOTALL)
"""Characters that need no look at them, or a single other one."""

_JOINERS = "\u200c\u200d"

_SELECTORS = re.compile("[\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Choose one of several shapes of the character before them."""

_BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"
"""Letters and marks, as Unicode counts them, that show nothing."""

_UNSEEN = re.compile(f"[{_JOINERS}{_BLANK}]|{_SELECTORS.pattern}")
"""What Python calls printable, or an emoji may need, and nobody sees."""

_VIRAMA = 9
"""Combining class of the sign that joins consonants in the scripts of India."""


def for_terminal(text: str, *, several_lines: bool = False) -> str:
    r"""Text as a terminal shows it, with everything written out that is no visible text.

    Doing it twice changes nothing more. A backslash stays a backslash, so what is written out
    looks like the same characters in the text itself.

    Args:
        text: Of whatever origin.
        several_lines: Keep line breaks, and tabs as spaces; else the text becomes one line, whose
            line breaks and tabs are single spaces.

    >>> for_terminal("red \x1b[31m text,\n next line")
    'red \\x1b[31m text, next line'
    """
    if text.isascii() and text.isprintable():
        return text
    if several_lines:
        text = text.replace("\r\n", "\n").expandtabs()
    else:
        text = _LINE_BREAK.sub(" ", text.strip("\n\r"))
    return written_out(text, lambda sign: sign.encode("unicode_escape").decode("ascii"))


def terminal_text(text: str, style: str = "", *, several_lines: bool = False) -> Text:
    """The same for rich, which finds neither markup nor emoji codes in it.

    Args:
        text: Of whatever origin.
        style: How rich shows it.
        several_lines: As :func:`for_terminal`.
    """
    from rich.text import Text

    return Text(for_terminal(text, several_lines=several_lines), style=style)


def written_out(text: str, write: Callable[[str], str]) -> str:
    """Text in which each character that is not visible is replaced; line feeds stay.

    Args:
        text: What :func:`for_terminal` is about.
        write: Gives what is shown in place of a character, more than one character long.
    """
    if text.replace("\n", "").isprintable() and not _UNSEEN.search(text):
        return text  # most text, at once
    shown: list[str] = []
    before = ""
    for part in _PLAIN_OR_ONE.finditer(text):
        sign, after = part[0], text[part.end() : part.end() + 1]
        if part[1] or _is_visible(sign) or _belongs_between(before, sign, after):
            shown.append(sign)
            before = sign[-1]
        else:
            shown.append(write(sign))
            before = ""
    return "".join(shown)


def _is_visible(sign: str) -> bool:
    if _UNSEEN.match(sign):
        return False
    return sign.isprintable() or unicodedata.category(sign) == "Zs"


def _belongs_between(before: str, sign: str, after: str) -> bool:
    """Whether a joiner or selector does something for the characters beside it, as far as shown."""
    if _SELECTORS.match(sign):
        return bool(before) and _is_visible(before) and unicodedata.category(before)[0] in "LNPS"
    if sign not in _JOINERS or not before:
        return False
    if sign == "\u200d" and _is_emoji(before) and after and _is_emoji(after):
        return True
    return _is_joined(before) and (
        unicodedata.combining(before) == _VIRAMA or (after != "" and _is_joined(after))
    )


def _is_emoji(sign: str) -> bool:
    """A symbol, a colour of skin, or the selector that makes a symbol an emoji."""
    return unicodedata.category(sign) in ("So", "Sk") or sign == "\ufe0f"


def _is_joined(sign: str) -> bool:
    """A letter or mark of a script between Arabic and Vedic, where joiners are orthography."""
    visible = "\u0600" <= sign <= "\u1cff" and _is_visible(sign)
    return visible and unicodedata.category(sign)[0] in "LM"

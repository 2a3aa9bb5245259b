"""A key out of text that comes from elsewhere: some servers, and some judges, repeat it."""

from __future__ import annotations

import base64
import re
from urllib.parse import quote

SHORTEST_SECRET = 8
"""Characters of the shortest key, and of the shortest part of one, that is taken out.

What is shorter is no secret, and would be found in ordinary text: local servers are often given a
key such as ``none``.
"""

REDACTED = "***"


class Redaction:
    """Takes a key, every longer part of it and its encoded forms out of text.

    Args:
        key: As it is sent; empty if there is none.

    >>> Redaction("sk-1234567890")("the key sk-12345678... is wrong")
    'the key ***... is wrong'
    """

    def __init__(self, key: str) -> None:
        self._parts: list[str] = []
        if len(key) >= SHORTEST_SECRET:
            encoded = [base64.b64encode(key.encode()), base64.urlsafe_b64encode(key.encode())]
            forms = [key, quote(key, safe=""), *(text.decode().rstrip("=") for text in encoded)]
            parts = [part for form in forms for part in _parts(form.lower())]
            self._parts = list(dict.fromkeys(parts))
        self._pattern = re.compile("|".join(map(re.escape, self._parts)), re.IGNORECASE)

    def __call__(self, text: str) -> str:
        """The text without the key, in capitals or not; each stretch of it becomes ``***``."""
        small = text.lower()
        if not any(part in small for part in self._parts):
            return text
        pieces: list[str] = []
        kept = 0
        for start, end in self._stretches(text):
            pieces += [text[kept:start], REDACTED]
            kept = end
        return "".join([*pieces, text[kept:]])

    def _stretches(self, text: str) -> list[tuple[int, int]]:
        """Where parts of the key stand; those that overlap or touch are one stretch."""
        found: list[tuple[int, int]] = []
        start = 0
        while match := self._pattern.search(text, start):
            if found and match.start() <= found[-1][1]:
                found[-1] = (found[-1][0], match.end())
            else:
                found.append(match.span())
            start = match.start() + 1
        return found


def _parts(form: str) -> list[str]:
    return [
        form[start : start + SHORTEST_SECRET] for start in range(len(form) - SHORTEST_SECRET + 1)
    ]

"""Where the keys of a TOML file stand, so that messages can name the line.

Neither the standard library's parser nor tomlkit says where a value stands. This reader only looks
for table headers and keys at the beginning of lines; it is used for messages and never for values.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$")
_KEY = re.compile(r"\s*([\w.\-\"']+)\s*=\s*(.*)$")


@dataclass
class TomlLines:
    """Lines of keys.

    Args:
        text: The file's text; it need not be valid TOML.
    """

    text: str
    _keys: dict[tuple[str, ...], int] = field(init=False, default_factory=dict)
    _text_starts: dict[tuple[str, ...], int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        table: tuple[str, ...] = ()
        closing = None
        for number, line in enumerate(self.text.splitlines(), start=1):
            if closing:
                closing = None if closing in line else closing
            elif header := _HEADER.match(line):
                table = _parts(header.group(1))
                self._keys.setdefault(table, number)
            elif key := _KEY.match(line):
                path = (*table, *_parts(key.group(1)))
                value = key.group(2)
                self._keys.setdefault(path, number)
                opening = value[:3] if value[:3] in ('"""', "'''") else None
                # A line break right after the opening quotes is not part of the text.
                self._text_starts.setdefault(path, number + (opening == value.rstrip()))
                closing = opening if opening and opening not in value[3:] else None

    def line(self, path: Sequence[str]) -> int | None:
        """Line of a key, else of the innermost table around it; ``None`` if neither is found."""
        for length in range(len(path), 0, -1):
            if tuple(path[:length]) in self._keys:
                return self._keys[tuple(path[:length])]
        return None

    def line_in_text(self, path: Sequence[str], line: int | None) -> int | None:
        """Line of the file for a line (from 1) of the text that a key holds."""
        start = self._text_starts.get(tuple(path))
        return self.line(path) if start is None or line is None else start + line - 1


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in name.split("."))

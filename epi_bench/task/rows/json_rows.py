"""Rows of JSON files: objects one after the other, or in arrays.

They are read here and not by a library because an error must name line and row, and because
nothing may be dropped: what cannot be a row is an error.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from epi_bench.errors import UserError
from epi_bench.task.rows.row import Row, shown_value
from epi_bench.task.rows.text_files import (
    FileText,
    lone_surrogate,
    read_text,
    shown_path,
    undecoded_byte,
)

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_BLANKS = re.compile(r"[ \t\r\n]*")


def read_json_rows(path: Path, relative_to: Path | None = None) -> Iterator[Row]:
    """The objects of a JSON file: one after the other, as in JSON Lines, or in arrays.

    Args:
        path: The file, UTF-8; compressed if its name ends in ``.gz``.
        relative_to: Folder that messages leave out of the path.

    Raises:
        UserError: If the file has no rows, or holds anything but rows; file and line are named,
            and the row, where lines do not tell the rows apart.
    """
    shown = shown_path(path, relative_to)
    found = False
    for row in _Reader(read_text(path, shown), shown).rows():
        found = True
        yield row
    if not found:
        raise UserError(f"{shown} has no rows")


class _RowError(ValueError):
    """A value that is JSON, but no row."""


class _Reader:
    """Goes through a file's text from value to value.

    Args:
        file: The text.
        shown: What messages call the file.
    """

    def __init__(self, file: FileText, shown: str) -> None:
        self._text = file.content
        self._broken = file.broken
        self._shown = shown
        self._escapes = _SURROGATE_ESCAPE.search(file.content) is not None
        self._decoder = json.JSONDecoder(object_pairs_hook=_object)
        self._position = 0
        self._line = 1
        self._line_start = 0
        self._counted = 0  # up to where line breaks have been counted
        self._row_end = 0
        self._index = 0
        self._columns: dict[str, None] = {}
        self._has_arrays = False

    def rows(self) -> Iterator[Row]:
        """Every row; the first value says whether the file holds rows or arrays of rows."""
        self._skip_blanks()
        self._has_arrays = self._next() == "["
        while self._next():
            if self._has_arrays:
                yield from self._array()
            else:
                yield self._row()
            self._skip_blanks()

    def _array(self) -> Iterator[Row]:
        if self._next() != "[":
            raise self._error("not JSON: expecting the file's end after the array of rows")
        self._step()
        if self._next() == "]":
            self._step()
            return
        while True:
            yield self._row()
            self._skip_blanks()
            separator = self._next()
            if separator not in (",", "]"):
                raise self._error("not JSON: expecting ',' or ']' after a row")
            self._step()
            if separator == "]":
                return

    def _row(self) -> Row:
        start, origin = self._position, self._origin()
        try:
            value, self._position = self._decoder.raw_decode(self._text, start)
            self._check_text(value, self._text[start : self._position])
        except json.JSONDecodeError as error:
            raise UserError(f"{origin}: {self._explained(error, start)}") from error
        except _RowError as error:
            raise UserError(f"{origin}: {error}") from error
        except RecursionError as error:
            raise UserError(f"{origin}: JSON nested too deeply") from error
        except ValueError as error:  # Python does not convert longer numbers
            most = sys.get_int_max_str_digits()
            raise UserError(f"{origin}: a number has more than {most:,} digits") from error
        if not isinstance(value, dict):
            raise UserError(f"{origin}: not a JSON object but {shown_value(value)}")
        self._row_end = self._position
        row = Row(value, self._index, origin, self._columns)
        self._columns.update(dict.fromkeys(value))
        self._index += 1
        return row

    def _check_text(self, value: Any, source: str) -> None:
        defect = undecoded_byte(source) if self._broken else None
        if not defect and self._escapes and _SURROGATE_ESCAPE.search(source):
            defect = lone_surrogate(json.dumps(value, ensure_ascii=False))
        if defect:
            raise _RowError(defect)

    def _explained(self, error: json.JSONDecodeError, start: int) -> str:
        """The parser's message, with the column, and the line if it is another than the row's."""
        if self._broken and (defect := undecoded_byte(self._text[start : error.pos + 1])):
            return defect
        lines = self._text.count("\n", start, error.pos)
        line = f"line {self._line + lines} " if lines else ""
        return f"not JSON: {error.msg} ({line}column {error.colno})"

    def _error(self, problem: str) -> UserError:
        column = self._position - self._text.rfind("\n", 0, self._position)
        return UserError(f"{self._origin()}: {problem} (column {column})")

    def _origin(self) -> str:
        """File and line; and the row, counted from 1, where a line may hold several."""
        breaks = self._text.count("\n", self._counted, self._position)
        if breaks:
            self._line += breaks
            self._line_start = self._text.rfind("\n", self._counted, self._position) + 1
        self._counted = self._position
        several = self._has_arrays or self._row_end > self._line_start
        row = f", row {self._index + 1}" if several else ""
        return f"{self._shown} line {self._line}{row}"

    def _next(self) -> str:
        return self._text[self._position : self._position + 1]

    def _step(self) -> None:
        self._position += 1
        self._skip_blanks()

    def _skip_blanks(self) -> None:
        match = _BLANKS.match(self._text, self._position)
        self._position = match.end() if match else self._position


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise _RowError(f"the key {name!r} stands twice in one object")
    return fields

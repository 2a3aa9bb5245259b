"""One row of a data set: its columns, where it stands, and which of its values are missing."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from epi_bench.errors import UserError

MOST_NAMES = 50
"""Column names that a message lists."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set.

    Attributes:
        fields: Its columns by name.
        index: Its position in the published split, from 0; the same in every layout.
        origin: File and line, or hub split and row; used in messages, where rows count from 1 as
            lines do.
        columns: The columns of the whole table, where rows may lack some of them.
    """

    fields: Mapping[str, Any]
    index: int
    origin: str
    columns: Collection[str] = field(default=(), compare=False)

    def has(self, name: str) -> bool:
        """Whether the row has a value in that column."""
        return not is_missing(self.fields.get(name))

    def has_column(self, name: str) -> bool:
        """Whether the table has that column, even if this row has no value in it."""
        return name in self.fields or name in self.columns

    def value(self, *names: str) -> Any:
        """The value of the first of these columns that is not missing; ``None`` if all are.

        Args:
            names: Names that the published layouts use for the same column, in any order.

        Raises:
            UserError: If the table has none of them.
        """
        for name in names:
            if self.has(name):
                return self.fields[name]
        if any(self.has_column(name) for name in names):
            return None
        wanted = " or ".join(repr(name) for name in names)
        raise self.error(f"has no field {wanted}; its fields are {shown_names(self.fields)}")

    def text(self, *names: str) -> str:
        """Like :meth:`value`, for strings: without surrounding blanks, empty if missing."""
        return self._string(names).strip()

    def code(self, *names: str) -> str:
        """Like :meth:`text`, for source code: blanks are kept, line ends are ``\\n``."""
        return self._string(names).replace("\r\n", "\n")

    def error(self, problem: str) -> UserError:
        """The error for a defect of this row; file and line are named."""
        return UserError(f"{self.origin} {problem}")

    def _string(self, names: tuple[str, ...]) -> str:
        value = self.value(*names)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.error(f"field {names[0]!r} is no text but {shown_value(value)}")
        return value


def is_missing(value: Any) -> bool:
    """Whether a value stands for no value: null, or the NaN that tables write in its place."""
    # NaN is the only number that differs from itself.
    return value is None or (isinstance(value, float | Decimal) and bool(value != value))


def shown_names(names: Iterable[str]) -> str:
    """Column names as messages list them: control characters as escapes, and not too many."""
    listed = list(names)
    shown = [name if name.isprintable() else repr(name) for name in listed[:MOST_NAMES]]
    more = [f"{len(listed) - MOST_NAMES} more"] if len(listed) > MOST_NAMES else []
    return ", ".join([*shown, *more])


def shown_value(value: Any) -> str:
    """A value as messages show it: short, in one line, whatever it holds."""
    return "null" if value is None else reprlib.repr(value)

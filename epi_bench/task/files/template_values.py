"""Values in templates of task files: missing ones, and comparisons by type.

Jinja turns a missing value into the text "None" as soon as a filter touches it, and finds that a
text never equals a number. Both give a wrong answer for a row, or the same answer for all of them,
and say nothing. Here a missing value cannot become text, and what can never be equal is an error.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from jinja2.exceptions import TemplateRuntimeError
from jinja2.runtime import StrictUndefined, Undefined

from epi_bench.task.rows.row import is_missing, shown_names, shown_value


class MissingValueError(TemplateRuntimeError):
    """A template needs a value that the row does not have."""


class Missing(StrictUndefined):
    """A value that a row does not have.

    A template may ask for it (``is none``, ``is defined``, ``== none``) and put another in its
    place (``default``). Any other use raises :class:`MissingValueError`: its text, its comparison
    with a value, its truth.
    """

    __slots__ = ()

    def __init__(self, name: str) -> None:
        super().__init__(hint=f"no value for {name!r}", exc=MissingValueError)


class Unknown(StrictUndefined):
    """A column, or a key of a dictionary, that does not exist; any use of it is an error."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        known = self._undefined_obj
        if isinstance(known, Mapping):
            return f"there is no {self._undefined_name!r} among {shown_names(map(str, known))}"
        return super()._undefined_message


class OptionalMissing(Missing):
    """The same where a part may be left out: it counts as false, so ``if`` can ask for it."""

    __slots__ = ()

    def __bool__(self) -> bool:  # type: ignore[override]  # Jinja's never returns
        return False


def with_missing(value: Any, name: str, kind: type[Missing]) -> Any:
    """A value in which everything missing, at any depth, is a :class:`Missing`.

    Args:
        value: Of a column.
        name: What messages call it.
        kind: Which class missing values get.
    """
    if is_missing(value):
        return kind(name)
    if isinstance(value, Mapping):
        return {key: with_missing(inner, f"{name}.{key}", kind) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [with_missing(inner, name, kind) for inner in value]
    return value


def equal(left: Any, right: Any) -> bool:
    """Whether two values are equal.

    Raises:
        MissingValueError: If one is missing, and the other is not ``none``.
        TemplateRuntimeError: If values of these types are never equal.
    """
    if left is None or right is None:
        other = right if left is None else left
        return isinstance(other, Missing) or needed(other) is None
    return _compare(operator.eq, "==", left, right)


def contains(value: Any, container: Any) -> bool:
    """Whether a container holds a value, compared as in :func:`equal`; or a text another.

    Raises:
        MissingValueError: If one of them is missing.
        TemplateRuntimeError: If the container cannot hold values of that type.
    """
    if isinstance(needed(container), str):
        if not isinstance(needed(value), str):
            raise _never("in", value, container)
        return value in container
    items = list(container)
    if value is None:
        return any(equal(item, None) for item in items)
    kind = _kind(needed(value))
    alike = [item for item in items if _kind(needed(item)) == kind]
    if items and not alike:
        raise TemplateRuntimeError(
            f"{shown_value(value)} in {shown_value(items)} looks for a {kind} among values of "
            "other types"
        )
    return any(equal(value, item) for item in alike)


def _compare(function: Callable[[Any, Any], Any], sign: str, left: Any, right: Any) -> bool:
    if _kind(needed(left)) != _kind(needed(right)):
        raise _never(sign, left, right)
    if {type(left), type(right)} == {float, Decimal}:
        left, right = float(left), float(right)
    return bool(function(left, right))


def needed(value: Any) -> Any:
    """The value; for one that is missing, or a column that does not exist, its error.

    Raises:
        MissingValueError: If it is missing.
        UndefinedError: If it does not exist; it is named.
    """
    if isinstance(value, Undefined):
        str(value)
    return value


def _kind(value: Any) -> str:
    for kind, name in _KINDS:
        if isinstance(value, kind):
            return name
    return type(value).__name__


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (str, "text"),
    ((bool, int, float, Decimal), "number"),
    (datetime, "date with time"),
    (date, "date"),
    (time, "time"),
    ((list, tuple), "list"),
    (dict, "dictionary"),
)


def _never(sign: str, left: Any, right: Any) -> TemplateRuntimeError:
    kinds = (_kind(left), _kind(right))
    remedy = ""
    if set(kinds) == {"text", "number"}:
        text = left if isinstance(left, str) else right
        remedy = (
            f": write the number in quotes, or make a number of {shown_value(text)} "
            "with the filter int or float"
        )
    return TemplateRuntimeError(
        f"{shown_value(left)} {sign} {shown_value(right)} compares a {kinds[0]} with a "
        f"{kinds[1]}{remedy}"
    )


def _ordering(function: Callable[[Any, Any], Any], sign: str) -> Callable[[Any, Any], bool]:
    return lambda left, right: _compare(function, sign, left, right)


COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": equal,
    "ne": lambda left, right: not equal(left, right),
    "gt": _ordering(operator.gt, ">"),
    "gteq": _ordering(operator.ge, ">="),
    "lt": _ordering(operator.lt, "<"),
    "lteq": _ordering(operator.le, "<="),
    "in": contains,
    "notin": lambda value, container: not contains(value, container),
}
"""By the names of Jinja's operators."""


def compare_chain(first: Any, *rest: Any) -> bool:
    """``a < b <= c``, as operator and value in turn.

    Args:
        first: The leftmost value.
        rest: Operator, value, operator, value, ...
    """
    left = first
    for name, right in zip(rest[::2], rest[1::2], strict=True):
        if not COMPARISONS[name](left, right):
            return False
        left = right
    return True


TESTS: Mapping[str, Callable[..., bool]] = {
    **dict.fromkeys(("eq", "equalto", "=="), COMPARISONS["eq"]),
    **dict.fromkeys(("ne", "!="), COMPARISONS["ne"]),
    **dict.fromkeys(("gt", "greaterthan", ">"), COMPARISONS["gt"]),
    **dict.fromkeys(("ge", ">="), COMPARISONS["gteq"]),
    **dict.fromkeys(("lt", "lessthan", "<"), COMPARISONS["lt"]),
    **dict.fromkeys(("le", "<="), COMPARISONS["lteq"]),
    "in": contains,
    "none": lambda value: value is None or isinstance(value, Missing),
    "true": lambda value: needed(value) is True,
    "false": lambda value: needed(value) is False,
    "sameas": lambda value, other: needed(value) is other,
}
"""Jinja's tests of these names, with the same rules."""


def whole_number(value: Any, default: int | None = None, base: int = 10) -> int:
    """Jinja's filter ``int``, where a text that is no number is an error and not 0.

    Args:
        value: A number or a text; of a fraction, the part before the point.
        default: What a text that is no number gives instead.
        base: Of the text's digits.
    """
    try:
        return int(value, base) if isinstance(value, str) else int(needed(value))
    except (TypeError, ValueError, OverflowError):
        pass
    return int(decimal_number(value) if default is None else decimal_number(value, default))


def decimal_number(value: Any, default: float | None = None) -> float:
    """Jinja's filter ``float``, where a text that is no number is an error and not 0.

    ``nan`` is none: every comparison with it would be false.
    """
    try:
        number = float(needed(value))
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isnan(number):
        return number
    if default is not None:
        return default
    raise TemplateRuntimeError(f"{shown_value(value)} is no number")


def absolute(value: Any) -> Any:
    """Jinja's filter ``abs``."""
    return abs(needed(value))


def position(value: Any) -> Any:
    """A position or key that a row gives.

    Raises:
        TemplateRuntimeError: If it is negative: data sets write -1 where they have no label, and
            it would count from the end.
    """
    if isinstance(needed(value), int) and value < 0:
        raise TemplateRuntimeError(f"{value} is no position in a list: they count from 0")
    return value


def parts_of(value: Any, purpose: str) -> Iterable[Any]:
    """The parts of a list or dictionary, for a loop or to be joined.

    Raises:
        TemplateRuntimeError: If it is a text: its parts are letters, which is never meant.
    """
    if isinstance(needed(value), str):
        raise TemplateRuntimeError(
            f"{purpose} goes through the text {shown_value(value)} letter by letter: it needs a "
            "list (letters are meant? add the filter list)"
        )
    return iter(value)

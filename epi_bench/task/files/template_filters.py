"""Filters of the templates in task files: none makes a text that is much larger than its input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from functools import wraps
from typing import Any

from jinja2 import pass_context
from jinja2.exceptions import TemplateRuntimeError
from jinja2.runtime import Context

from epi_bench.task.files.template_values import MissingValueError, decimal_number, needed, parts_of
from epi_bench.task.rows.row import is_missing

LONGEST_TEXT = 1_000_000
"""Characters of a text that a template makes, or of any text on the way there."""

MOST_PASSES = 100_000
"""Passes through all loops of one rendering."""

PASSES = "loop passes so far"
"""Variable that counts them; no identifier, so no template can name it."""

_PLAIN = (str, int, float, bool, Decimal, date, datetime, time)


def checked(function: Callable[..., Any], check: Callable[[Any], Any]) -> Callable[..., Any]:
    """One of Jinja's filters, which makes text of anything, for values that pass a check."""
    before = 1 if hasattr(function, "jinja_pass_arg") else 0  # the context or environment

    @wraps(function)
    def checked(*arguments: Any, **keywords: Any) -> Any:
        value = check(arguments[before])
        return function(*arguments[:before], value, *arguments[before + 1 :], **keywords)

    return checked


def plain(value: Any) -> str:
    """A value as text."""
    if is_missing(value):
        raise MissingValueError("no value for a part of the text")
    needed(value)
    if isinstance(value, float) and math.isinf(value):
        raise TemplateRuntimeError("an infinite number is no text")
    if not isinstance(value, _PLAIN):
        kind = type(value).__name__
        raise TemplateRuntimeError(f"a {kind} is no text: pick a part of it, or join it")
    return str(value)


def join(values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    """The values' texts with the separator between them."""
    parts: list[str] = []
    length = 0
    for value in parts_of(values, "join"):
        item = value.get(attribute) if attribute and isinstance(value, dict) else value
        parts.append(plain(item))
        length += len(parts[-1]) + len(separator)
        check_length(length)
    return separator.join(parts)


def replace(text: Any, old: str, new: str) -> str:
    """The text with each occurrence of ``old`` replaced."""
    written = plain(text)
    check_length(len(written) + written.count(old) * len(new))
    return written.replace(old, new)


def round_number(value: Any, digits: int = 0) -> float:
    """The number rounded to at most 15 digits after the point."""
    return round(decimal_number(value), max(0, min(digits, 15)))


@pass_context
def bounded_loop(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    """The values of a loop, as long as all loops of a rendering make few enough passes."""
    passes = context[PASSES]
    for value in parts_of(values, "the loop"):
        passes[0] += 1
        if passes[0] > MOST_PASSES:
            raise TemplateRuntimeError(f"loops make more than {MOST_PASSES:,} passes")
        yield value


def check_length(length: int) -> None:
    """Refuse a text that becomes too long."""
    if length > LONGEST_TEXT:
        raise TemplateRuntimeError(f"the text becomes longer than {LONGEST_TEXT:,} characters")

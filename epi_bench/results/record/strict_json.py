"""JSON as the standard has it: no Infinity, no NaN, no number that arithmetic cannot take."""

from __future__ import annotations

import json
from typing import Any, NoReturn

LONGEST_INTEGER = 18
"""Digits; no count of a run has more."""

LARGEST_NUMBER = 1e100
"""No measurement is larger, and the squares of larger numbers overflow."""


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: If it is not JSON, or a number in it is too large.
        RecursionError: If it is nested too deeply.
    """
    return json.loads(text, parse_constant=_refuse_constant, parse_float=_float, parse_int=_integer)


def _float(text: str) -> float:
    value = float(text)
    if not abs(value) <= LARGEST_NUMBER:
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _integer(text: str) -> int:
    if len(text) > LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")

"""Plain Python values as bytes and back, for processes that do not trust each other.

Reading never runs code: what arrives is made of built-in types (and deques, decimals, fractions),
whatever its sender did. Anything else travels as a *handle*, a number that stands for an object in
the program's process. Subclasses of plain types arrive as the plain type (an ``IntEnum`` as
``int``, a ``Counter`` as ``dict``), so no ``__eq__`` but the interpreter's own decides whether a
result is right. An iterator arrives as an iterator over the items that it had left.

The format is JSON. A list is a list; any other composed value is an object with one key, its tag.
"""

from __future__ import annotations

import json
import sys

TYPE_CHECKING = False  # typing takes as long to import as the rest of a sandbox's modules
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LONGEST_ITERATOR = 100_000
"""Items taken from an iterator; a longer one cannot be sent."""

_LARGEST_JSON_INTEGER = 2**63  # the interpreter refuses decimal numbers of thousands of digits
_TYPES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)
}


class NotPlainError(TypeError):
    """A value that is not plain, where handles are not allowed."""


class MalformedError(ValueError):
    """Bytes that no :func:`encode` wrote."""


def encode(value: Any, handle_of: Callable[[Any], int]) -> bytes:
    """A value as bytes.

    Args:
        value: Plain values in any nesting; a cycle raises ``RecursionError``.
        handle_of: The handle of a value that is not plain; may raise :class:`NotPlainError`.
    """
    return json.dumps(_to_json(value, handle_of)).encode()


def decode(content: bytes, object_of: Callable[[int], Any]) -> Any:
    """The value that was encoded.

    Args:
        content: From an untrusted sender.
        object_of: The object that a handle stands for.

    Raises:
        MalformedError: If the bytes are not an encoded value.
    """
    try:
        return _from_json(json.loads(content), object_of)
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        raise MalformedError(f"{type(error).__name__}: {error}"[:200]) from error


def no_handle(value: Any) -> Any:
    """For :func:`encode` and :func:`decode` where only plain values may pass."""
    raise NotPlainError(f"a {type(value).__name__} is not a plain value")


def _to_json(value: Any, handle_of: Callable[[Any], int]) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        plain = int(value)
        return plain if abs(plain) < _LARGEST_JSON_INTEGER else {"integer": hex(plain)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {type(value).__name__: value.hex()}
    if isinstance(value, type) and any(value is kind for kind in _TYPES.values()):
        return {"type": value.__name__}
    tag, members = _members(value)
    if tag is None:
        return {"handle": handle_of(value)}
    items = [_to_json(member, handle_of) for member in members]
    return items if tag == "list" else {tag: items}


def _members(value: Any) -> tuple[str | None, Any]:
    """The tag of a composed value and what it is composed of; no tag if it is not plain."""
    for name in ("list", "tuple", "set", "frozenset"):
        if isinstance(value, _TYPES[name]):
            return name, list(value)
    if isinstance(value, dict):
        return "dict", [part for pair in value.items() for part in pair]
    if isinstance(value, range):
        return "range", (value.start, value.stop, value.step)
    if isinstance(value, type({}.keys()) | type({}.values()) | type({}.items())):
        return type(value).__name__, list(value)
    if isinstance(value, _imported("collections", "deque")):
        return "deque", [value.maxlen, *value]
    if isinstance(value, _imported("decimal", "Decimal")):
        return "Decimal", [str(value)]
    if isinstance(value, _imported("fractions", "Fraction")):
        return "Fraction", [value.numerator, value.denominator]
    if hasattr(type(value), "__next__") and hasattr(type(value), "__iter__"):
        return "iterator", _bounded(value)
    return None, ()


def _imported(module: str, name: str) -> Any:
    """A type that can only exist where its module has been imported; ``()`` matches nothing."""
    return getattr(sys.modules.get(module), name, ())


def _bounded(iterator: Any) -> list[Any]:
    items: list[Any] = []
    for item in iterator:
        if len(items) == LONGEST_ITERATOR:
            raise NotPlainError(f"an iterator has more than {LONGEST_ITERATOR} items")
        items.append(item)
    return items


def _from_json(node: Any, object_of: Callable[[int], Any]) -> Any:
    if isinstance(node, list):
        return [_from_json(item, object_of) for item in node]
    if not isinstance(node, dict):
        return node
    ((tag, content),) = node.items()
    if tag == "handle":
        return object_of(int(content))
    if tag in _FROM_CONTENT:
        return _FROM_CONTENT[tag](content)
    return _FROM_ITEMS[tag]([_from_json(item, object_of) for item in content])


def _dict(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def _deque(items: list[Any]) -> Any:
    from collections import deque

    return deque(items[1:], items[0])


def _decimal(items: list[Any]) -> Any:
    from decimal import Decimal

    (text,) = items
    return Decimal(str(text))


def _fraction(items: list[Any]) -> Any:
    from fractions import Fraction

    numerator, denominator = items
    return Fraction(numerator, denominator)


_FROM_CONTENT: dict[str, Callable[[Any], Any]] = {
    "integer": lambda digits: int(digits, 16),
    "complex": lambda parts: complex(*parts),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "type": _TYPES.__getitem__,
}
_FROM_ITEMS: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": _dict,
    "range": lambda items: range(*items),
    "dict_keys": lambda items: dict.fromkeys(items).keys(),
    "dict_values": lambda items: dict(enumerate(items)).values(),
    "dict_items": lambda items: dict(items).items(),
    "iterator": iter,
    "deque": _deque,
    "Decimal": _decimal,
    "Fraction": _fraction,
}

"""Plain Python values as bytes and back, for processes that do not trust each other.

Reading never runs code: a value that arrives is made of built-in types (and deques, decimals,
fractions) and those types themselves, whatever its sender did. Anything else travels as a *handle*, a number that stands for
an object in the sender's or the receiver's process. Subclasses of plain types arrive as the plain
type (an ``IntEnum`` as ``int``, a ``Counter`` as ``dict``), so no ``__eq__`` but the interpreter's
own decides whether a result is right. Iterators arrive exhausted and rewound.

Own code and not ``json`` or ``marshal``: JSON has no tuples, sets or integer keys and takes a
third of an interpreter's start to import; ``marshal`` is not safe against made-up bytes.

Format: one tag byte, then for numbers and texts a length (4 bytes, little-endian) and the content,
for collections the number of members and the members.
"""

from __future__ import annotations

import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

LONGEST_ITERATOR = 100_000
"""Items taken from an iterator; a longer one cannot be sent."""

_LENGTH = struct.Struct("<I")
_FLOAT = struct.Struct("<d")
_COMPLEX = struct.Struct("<dd")

_CONSTANTS = {b"N": None, b"T": True, b"F": False, b"E": Ellipsis}
_TYPES = (bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)
_CONSTANT_TAGS = {id(value): tag for tag, value in _CONSTANTS.items()}
_DICT_KEYS: Any = type({}.keys())
_DICT_VALUES: Any = type({}.values())
_DICT_ITEMS: Any = type({}.items())


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
    parts: list[bytes] = []
    _write(value, parts.append, handle_of)
    return b"".join(parts)


def decode(content: bytes, object_of: Callable[[int], Any]) -> Any:
    """The value that was encoded.

    Args:
        content: From an untrusted sender.
        object_of: The object that a handle stands for.

    Raises:
        MalformedError: If the bytes are no encoded value.
    """
    try:
        value, end = _read(content, 0, object_of)
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        raise MalformedError(f"{type(error).__name__}: {error}"[:200]) from error
    if end != len(content):
        raise MalformedError(f"{len(content) - end} bytes follow the value")
    return value


def _write(value: Any, add: Callable[[bytes], None], handle_of: Callable[[Any], int]) -> None:
    constant = _CONSTANT_TAGS.get(id(value))
    if constant is not None:
        add(constant)
    elif isinstance(value, int):
        _add_sized(b"i", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True), add)
    elif isinstance(value, float):
        add(b"d" + _FLOAT.pack(value))
    elif isinstance(value, complex):
        add(b"c" + _COMPLEX.pack(value.real, value.imag))
    elif isinstance(value, str):
        _add_sized(b"s", value.encode("utf-8", "surrogatepass"), add)
    elif isinstance(value, bytes):
        _add_sized(b"b", value, add)
    elif isinstance(value, bytearray):
        _add_sized(b"a", bytes(value), add)
    elif isinstance(value, type) and value in _TYPES:
        add(b"y" + _LENGTH.pack(_TYPES.index(value)))
    else:
        tag, members = _members(value)
        if tag:
            items = tuple(members)
            add(tag + _LENGTH.pack(len(items)))
            for item in items:
                _write(item, add, handle_of)
        else:
            add(b"h" + _LENGTH.pack(handle_of(value)))


def _add_sized(tag: bytes, content: bytes, add: Callable[[bytes], None]) -> None:
    add(tag + _LENGTH.pack(len(content)))
    add(content)


def _members(value: Any) -> tuple[bytes, Iterable[Any]]:
    """The tag of a composed value and what it is composed of; an empty tag if it is not plain."""
    if isinstance(value, list):
        return b"l", value
    if isinstance(value, tuple):
        return b"t", value
    if isinstance(value, dict):
        return b"m", _flat(value.items())
    if isinstance(value, set):
        return b"e", value
    if isinstance(value, frozenset):
        return b"z", value
    if isinstance(value, range):
        return b"r", (value.start, value.stop, value.step)
    if isinstance(value, _DICT_KEYS):
        return b"k", value
    if isinstance(value, _DICT_VALUES):
        return b"v", value
    if isinstance(value, _DICT_ITEMS):
        return b"x", _flat(value)
    return _imported_members(value)


def _imported_members(value: Any) -> tuple[bytes, Iterable[Any]]:
    """The same for types that only exist where their module has been imported."""
    if isinstance(value, _imported("collections", "deque")):
        return b"q", (value.maxlen, *value)
    if isinstance(value, _imported("decimal", "Decimal")):
        return b"D", (str(value),)
    if isinstance(value, _imported("fractions", "Fraction")):
        return b"R", (value.numerator, value.denominator)
    if hasattr(type(value), "__next__") and hasattr(type(value), "__iter__"):
        return b"I", _bounded(value)
    return b"", ()


def _imported(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, ())


def _flat(pairs: Iterable[tuple[Any, Any]]) -> Iterable[Any]:
    return (part for pair in pairs for part in pair)


def _bounded(iterator: Any) -> list[Any]:
    items: list[Any] = []
    for item in iterator:
        if len(items) == LONGEST_ITERATOR:
            raise NotPlainError(f"an iterator has more than {LONGEST_ITERATOR} items")
        items.append(item)
    return items


def _read(content: bytes, start: int, object_of: Callable[[int], Any]) -> tuple[Any, int]:
    """The value that begins at ``start``, and where it ends."""
    tag = content[start : start + 1]
    start += 1
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], start
    if tag == b"d":
        return _unpack(_FLOAT, content, start)[0], start + _FLOAT.size
    if tag == b"c":
        return complex(*_unpack(_COMPLEX, content, start)), start + _COMPLEX.size
    (count,) = _unpack(_LENGTH, content, start)
    start += _LENGTH.size
    if tag == b"h":
        return object_of(count), start
    if tag == b"y":
        return _TYPES[count], start
    if tag in _SIZED:
        end = start + count
        if end > len(content):
            raise ValueError("the value is cut off")
        return _SIZED[tag](content[start:end]), end
    build = _COMPOSED[tag]
    items = []
    for _ in range(count):
        item, start = _read(content, start, object_of)
        items.append(item)
    return build(items), start


def _unpack(form: struct.Struct, content: bytes, start: int) -> tuple[Any, ...]:
    if start + form.size > len(content):
        raise ValueError("the value is cut off")
    return form.unpack_from(content, start)


def _integer(content: bytes) -> int:
    return int.from_bytes(content, "little", signed=True)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")


def _dict(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def _values(items: list[Any]) -> Any:
    return dict(enumerate(items)).values()


def _deque(items: list[Any]) -> Any:
    from collections import deque

    return deque(items[1:], items[0])


def _decimal(items: list[Any]) -> Any:
    from decimal import Decimal

    (text,) = items
    return Decimal(text)


def _fraction(items: list[Any]) -> Any:
    from fractions import Fraction

    numerator, denominator = items
    return Fraction(numerator, denominator)


_SIZED: dict[bytes, Callable[[bytes], Any]] = {
    b"i": _integer,
    b"s": _text,
    b"b": bytes,
    b"a": bytearray,
}
_COMPOSED: dict[bytes, Callable[[list[Any]], Any]] = {
    b"l": list,
    b"t": tuple,
    b"m": _dict,
    b"e": set,
    b"z": frozenset,
    b"r": lambda items: range(*items),
    b"k": lambda items: dict.fromkeys(items).keys(),
    b"v": _values,
    b"x": lambda items: _dict(items).items(),
    b"I": iter,
    b"q": _deque,
    b"D": _decimal,
    b"R": _fraction,
}

"""Values that cross between processes that do not trust each other."""

import enum
import json
import math
from collections import Counter, OrderedDict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from epi_bench.sandbox.values import (
    _FROM_CONTENT,
    _FROM_ITEMS,
    MalformedError,
    NotPlainError,
    decode,
    encode,
    no_handle,
)

HASHABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.binary()
    | st.text(st.characters()),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=8,
)
PLAIN = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.sets(HASHABLE, max_size=3)
    ),
    max_leaves=12,
)


def passed_on(value):
    return decode(encode(value, no_handle), no_handle)


def exact(value):
    """A value as text in which only the very same values are equal, leaf by leaf.

    For ``==`` a list of 1 equals one of True, -0.0 is 0.0, and NaN is not itself.
    """
    if isinstance(value, dict):
        inside = ",".join(f"{exact(key)}:{exact(item)}" for key, item in value.items())
    elif isinstance(value, set | frozenset):
        inside = ",".join(sorted(map(exact, value)))
    elif isinstance(value, list | tuple):
        inside = ",".join(map(exact, value))
    else:
        inside = repr(value)
    return f"{type(value).__name__}({inside})"


@settings(max_examples=50)
@given(PLAIN)
@example([math.nan, -0.0, True, 1, 1.0])
@example({(-0.0, False): frozenset({0.0})})
def test_plain_values_arrive_as_they_are(value):
    assert exact(passed_on(value)) == exact(value)


def test_the_comparison_tells_apart_what_is_equal():
    alike = ([0], [False], [0.0], [-0.0], [0j], (0,), {0}, frozenset({0}), {0: 0}, {False: 0})
    assert len(set(map(exact, alike))) == len(alike)
    assert exact([math.nan]) == exact([math.nan])


@pytest.mark.parametrize(
    "value",
    [
        bytearray(b"ab"),
        range(3, 9, 2),
        deque([1, 2], 3),
        Decimal("1.10"),
        Fraction(1, 3),
        {1: "a"}.keys(),
        {1: (2,)}.items(),
        "\ud800",
        -0.0,
        math.inf,
        int,
        (list, str),
    ],
    ids=repr,
)
def test_further_types_arrive_as_they_are(value):
    arrived = passed_on(value)
    assert arrived == value
    assert type(arrived) is type(value)


def test_integers_of_any_length_arrive():
    for value in (2**63 - 1, 2**63, -(2**63), 10**10_000, -(10**10_000)):
        assert passed_on(value) == value


def test_iterators_views_and_no_number_arrive():
    assert list(passed_on({1: 2}.values())) == [2]
    assert math.isnan(passed_on(math.nan))
    iterator = iter([1, 2, 3])
    next(iterator)
    assert list(passed_on(iterator)) == [2, 3]
    assert list(passed_on(n * n for n in range(3))) == [0, 1, 4]


class Level(enum.IntEnum):
    HIGH = 3


class AlwaysEqual(str):
    def __eq__(self, other):
        return True

    __hash__ = str.__hash__

    def __str__(self):
        return "chosen"


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Level.HIGH, 3),
        (AlwaysEqual("a"), "a"),
        (Point(1, 2), (1, 2)),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}),
    ],
)
def test_subclasses_arrive_as_what_they_are_made_of(value, plain):
    arrived = passed_on([value])[0]
    assert type(arrived) is type(plain)
    assert arrived == plain


def test_other_objects_travel_as_handles():
    thing = object()
    content = encode([thing, 1, thing], lambda value: 7)
    assert decode(content, lambda handle: (handle, thing)) == [(7, thing), 1, (7, thing)]
    with pytest.raises(NotPlainError, match="a object is not a plain value"):
        encode(thing, no_handle)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"{}",
        b'{"unknown": []}',
        b'{"list": [], "tuple": []}',
        b'{"type": "object"}',
        b'{"set": [[1]]}',
        b'{"dict": [1]}',
        b'{"integer": "zz"}',
        b'{"range": [1, 2, 0]}',
        b'{"iterator": 3}',
        b'{"Decimal": ["many"]}',
        b'{"Fraction": [1, 0]}',
        b'{"handle": null}',
        b'{"bytes": "zz"}',
        b"[" * 100_000,
        b"1" * 10_000,
    ],
)
def test_made_up_bytes_are_refused(content):
    with pytest.raises(MalformedError):
        decode(content, lambda handle: handle)


TAGS = st.sampled_from([*_FROM_CONTENT, *_FROM_ITEMS, "handle", "unknown"])

HANDLE = object()
"""Stands for an object of the program."""

LEAVES = (bool, int, float, complex, str, bytes, bytearray, range, Decimal, Fraction)
TYPES = (bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)


def is_plain(value):
    """Whether a value is made of built-in types (and deques, decimals, fractions) and handles."""
    if value is HANDLE or value is None or any(value is kind for kind in TYPES):
        return True
    if type(value) in (list, tuple, set, frozenset, deque, type({}.values())):
        return all(map(is_plain, value))
    if type(value) is dict:
        return all(is_plain(part) for pair in value.items() for part in pair)
    if type(value) in (type({}.keys()), type({}.items()), type(iter([]))):
        return all(map(is_plain, list(value)))
    return type(value) in LEAVES


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TAGS, inner, max_size=1),
    max_leaves=8,
)
"""What a program could send that knows the format."""


@settings(max_examples=200)
@given(st.binary() | JSON.map(json.dumps).map(str.encode))
def test_whatever_bytes_arrive_they_are_refused_or_give_plain_values(content):
    try:
        arrived = decode(content, lambda handle: HANDLE)
    except MalformedError:
        return
    assert is_plain(arrived)

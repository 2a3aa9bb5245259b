"""Messages are one line of bounded length."""

from __future__ import annotations

import doctest

import pytest

from epi_bench import errors
from epi_bench.errors import LONGEST_LINE, UserError, short_repr


def test_the_examples_of_the_docstrings_hold():
    assert doctest.testmod(errors).attempted > 0
    assert doctest.testmod(errors).failed == 0


def test_a_long_message_keeps_its_beginning_and_its_end():
    message = str(UserError("run.toml: " + "x" * 10**6 + ": choose another"))
    assert len(message) < LONGEST_LINE + 10
    assert message.startswith("run.toml: xxx")
    assert message.endswith("xxx: choose another")
    assert str(UserError("y" * LONGEST_LINE)) == "y" * LONGEST_LINE


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.5, "1.5"),
        ("a\x1b\n", r"'a\x1b\n'"),
        (10**5000, "an integer of thousands of digits"),
        ([10**5000], "an integer of thousands of digits"),
    ],
    ids=["number", "text", "integer", "list"],
)
def test_a_value_is_shown_as_python_writes_it(value, shown):
    assert short_repr(value) == shown


def test_a_long_value_is_shown_by_its_ends():
    assert short_repr("x" * 10**6) == "'" + "x" * 27 + "..." + "x" * 27 + "'"

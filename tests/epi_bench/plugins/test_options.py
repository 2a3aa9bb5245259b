"""Options read from signatures and docstrings."""

from __future__ import annotations

import doctest
from functools import partial
from typing import Literal

import pytest

from epi_bench.errors import UserError
from epi_bench.plugins import options
from epi_bench.plugins.options import (
    argument_descriptions,
    changed_options,
    check_options,
    complete_options,
    options_of,
)


def by_share(tasks, share: float = 0.5, names: tuple[str, ...] = ()):
    """Divides.

    Args:
        share: How much: between 0
            and 1.
        names: Whose.

    Returns:
        Nothing.
    """


GOOGLE = "One.\n\nArgs:\n    first (int): What to add\n        to the second.\n\nRaises:\n    X: y"
NUMPY = "One.\n\nParameters\n----------\nfirst : int\n    What to add\n    to the second.\n"
SPHINX = "One.\n\n:param first: What to add\n    to the second.\n:raises X: y"


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_descriptions_are_read_in_every_common_style(text):
    assert argument_descriptions(text) == {"first": "What to add to the second."}


@pytest.mark.parametrize("text", ["", "Args:", "Args:\n    first", "\0", "Attributes:\n    x: y"])
def test_a_docstring_without_arguments_describes_none(text):
    assert argument_descriptions(text) == {}


def test_the_examples_of_the_docstrings_hold():
    assert doctest.testmod(options).attempted > 0
    assert doctest.testmod(options).failed == 0


def test_name_type_default_and_meaning_come_from_the_function():
    found = options_of(by_share, skip=1)
    assert list(found) == ["share", "names"]
    assert found["share"].annotation is float
    assert found["share"].default == 0.5
    assert found["share"].description == "How much: between 0 and 1."


def test_partial_functions_and_objects_that_can_be_called_have_options():
    class Divider:
        def __call__(self, tasks, share: float = 0.5):
            pass

    assert options_of(partial(by_share, share=0.25), skip=1)["share"].default == 0.25
    assert options_of(Divider(), skip=1)["share"].annotation is float


def test_what_has_no_signature_is_a_user_error():
    with pytest.raises(UserError, match="the options of Odd cannot be read: TypeError"):
        options_of(type("Odd", (), {"__signature__": 5, "__call__": None}))


def test_only_options_that_differ_from_their_default_are_changed():
    def changed(**values):
        return changed_options("stream 'x'", by_share, values, skip=1)

    assert changed() == changed(share=0.5) == changed(share="0.5", names="") == {}
    assert changed(share="0.25") == {"share": 0.25}
    assert changed(names="b,a") == {"names": ["b", "a"]}
    with pytest.raises(UserError, match="unknown option of stream 'x' 'shar': did you mean"):
        changed(shar=1)


@pytest.mark.parametrize(
    "value", [2**63, -(2**63) - 1, str(2**64), 10**5000], ids=["high", "low", "text", "long"]
)
def test_an_integer_that_a_file_cannot_hold_is_refused(value):
    def counted(warmup: int = 0): ...

    with pytest.raises(UserError, match=r"warmup=.*: integers have at most 63 bits"):
        check_options("strategy 'x'", counted, {"warmup": value})


def test_a_message_repeats_only_the_ends_of_a_long_value():
    def counted(warmup: int = 0): ...

    with pytest.raises(UserError) as refused:
        check_options("strategy 'x'", counted, {"warmup": "y" * 5000})
    assert "warmup='yyy" in str(refused.value)
    assert len(str(refused.value)) < 250


def test_a_default_that_is_no_unicode_text_is_refused():
    def named(label: str = "\ud800"): ...

    with pytest.raises(UserError, match="a record cannot keep label="):
        complete_options("strategy 'x'", named, {})


def test_none_is_no_value_where_there_may_be_none_and_else_the_word():
    def chosen(limit: int | None = 3, control: Literal["none", "all"] = "all", text: str = ""): ...

    given = {"limit": "none", "control": "none", "text": "none"}
    found = check_options("strategy 'x'", chosen, given)
    assert found == {"limit": None, "control": "none", "text": "none"}

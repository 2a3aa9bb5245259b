"""A key, its parts and its encoded forms are taken out of text; ordinary text stays."""

from __future__ import annotations

import doctest
import random

import pytest

from epi_bench.evaluation.judge import redaction
from epi_bench.evaluation.judge.redaction import Redaction

KEY = "sk-Abc/123+456=xyz"


def test_the_examples_of_the_docstrings_hold():
    assert doctest.testmod(redaction).attempted > 0
    assert doctest.testmod(redaction).failed == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"a {KEY} b", "a *** b"),
        (f"{KEY}{KEY}", "***"),
        (KEY.lower(), "***"),
        (f"x{KEY[:8]}x", "x***x"),
        (f"x{KEY[3:14]}x{KEY[-9:]}x", "x***x***x"),
        (f"x{KEY[:7]}x", f"x{KEY[:7]}x"),
        ("sk-Abc%2F123%2B456%3Dxyz", "***"),
        ("token c2stQWJjLzEyMys0NTY9eHl6!", "token ***!"),
        ("Score: [[7]]", "Score: [[7]]"),
        ("", ""),
    ],
)
def test_every_form_of_the_key_is_taken_out(text, shown):
    assert Redaction(KEY)(text) == shown


@pytest.mark.parametrize("key", ["", "none", "EMPTY", "1234567"])
def test_what_is_no_secret_stays(key):
    text = f"EMPTY none 1234567 {key} Score: [[7]]"
    assert Redaction(key)(text) == text


def test_a_long_text_full_of_the_key_is_redacted_at_once():
    text = f"{KEY} " * 5000 + "".join(random.Random(0).choices("abc123", k=10**6))
    assert KEY.lower() not in Redaction(KEY)(text).lower()

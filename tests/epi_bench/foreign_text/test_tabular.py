"""Foreign text in CSV and JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epi_bench.foreign_text import for_csv, for_terminal, json_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(JSON, st.sampled_from([1, None]))
def test_json_can_be_printed_and_read_back(content, indent):
    text = json_text(content, indent)
    assert json.loads(text) == content
    assert text == for_terminal(text, several_lines=True)


def test_json_writes_out_what_is_not_visible():
    assert json_text(["é\x7f\x9b\u202e\U000e0041"], None) == (
        r'["é\u007f\u009b\u202e\udb40\udc41"]'
    )


@pytest.mark.parametrize(
    "text",
    [
        "=cmd|' /C calc'!A1",
        "+1+cmd|' /C calc'!A1",
        "-2+3",
        "@SUM(A1)",
        "\t=1+1",
        " =1",
        "＝1+1",
        "-",
    ],
)
def test_a_formula_is_text_for_a_spreadsheet(text):
    assert for_csv(text) == "'" + for_terminal(text)


@pytest.mark.parametrize("text", ["", "epi", "-3.5", "+0.2", "-1.2e-05", "-3.5 ± 1.2", "–", "1=2"])
def test_numbers_and_names_stay(text):
    assert for_csv(text) == text


def test_a_cell_is_one_line():
    assert for_csv("a\r\nb\x1b") == r"a b\x1b"

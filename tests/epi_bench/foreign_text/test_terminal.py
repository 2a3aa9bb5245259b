"""What a terminal would obey or hide is written out; what a reader sees stays."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from epi_bench.foreign_text import for_terminal, terminal_text

ANY_TEXT = st.text(
    st.one_of(
        st.characters(),  # halves of surrogate pairs among them
        st.sampled_from(
            "\x00\x07\x1b\x7f\x9b\u200b\u200c\u200d\u200f\u202e\u2066\ufe0f\u3164\n\r\t"
        ),
        st.sampled_from("❤👨👩🏽میه\u094dक1a \u00a0"),
    )
)


def not_shown(text):
    """Characters of a text that a terminal obeys, or shows nothing of."""
    return [
        character
        for character in text
        if unicodedata.category(character) in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp")
        or (unicodedata.category(character) == "Cf" and character not in "\u200c\u200d")
    ]


@settings(deadline=None)
@given(ANY_TEXT)
@example("\x1b]0;title\x07")
def test_any_text_becomes_one_line_of_visible_characters(text):
    assert not_shown(for_terminal(text)) == []


@settings(deadline=None)
@given(ANY_TEXT)
def test_of_several_lines_only_line_feeds_are_left(text):
    assert set(not_shown(for_terminal(text, several_lines=True))) <= {"\n"}


@settings(deadline=None)
@given(ANY_TEXT, st.booleans())
@example("\u200d" * 3, False)
@example("\r\r\n", True)
def test_doing_it_twice_changes_nothing_more(text, several_lines):
    once = for_terminal(text, several_lines=several_lines)
    assert for_terminal(once, several_lines=several_lines) == once


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b31mred", r"\x9b31mred"),  # the same as one C1 code
        ("bell\x07, back\x08", r"bell\x07, back\x08"),
        ("invoice\u202efdp.exe", r"invoice\u202efdp.exe"),
        ("\u2066a\u2069 \u200f", r"\u2066a\u2069 \u200f"),
        ("ad\u200bmin\ufeff\u00ad\u2060", r"ad\u200bmin\ufeff\xad\u2060"),
        ("hidden \U000e0041", r"hidden \U000e0041"),
        ("half \ud800", r"half \ud800"),
        ("empty \u3164", r"empty \u3164"),  # a letter, says Unicode; it shows nothing
        ("one\r\ntwo\u2028three\tfour", "one two three four"),
        ("a\ufe00\ufe01\ufe02", "a\ufe00" + r"\ufe01\ufe02"),  # bytes hidden as selectors
        ("a\u200db", r"a\u200db"),
        ("🙂\u200d", r"🙂\u200d"),
        ("می\u200c\u200cخواهم", r"می\u200c\u200cخواهم"),
    ],
)
def test_what_is_written_out(text, shown):
    assert for_terminal(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Größe, façade, Ångström, e\u0301",
        "漢字\u3000かな 한국어 葛\U000e0100",
        "العربية עברית ไทย",
        "می\u200cخواهم",  # Persian, with the joiner that its spelling asks for
        "क\u094d\u200dष ശ്രീ ന\u0d4d\u200d",
        "👨‍👩‍👧 👩🏽‍🚀 ❤️ ❤️‍🔥 🏳️‍🌈 1️⃣ 🇪🇺",
        "12\u00a0%, «\u202fquoi\u202f»",
        r"C:\new \x1b \frac{1}{2} [red]x[/red] :smile:",
    ],
)
def test_honest_text_stays_as_it_is(text):
    assert for_terminal(text) == text
    assert for_terminal(text, several_lines=True) == text
    assert terminal_text(text).plain == text


def test_lines_stay_where_several_are_wanted():
    text = "if x:\n\treturn\r\n\x1b[2J\rend"
    assert for_terminal(text, several_lines=True) == "if x:\n        return\n\\x1b[2J\\rend"

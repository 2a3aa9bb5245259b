"""Foreign text in Markdown and HTML, held against a reader of CommonMark and of HTML."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from epi_bench.foreign_text import for_html, for_markdown, for_terminal, markdown_code

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
"""With what GitHub adds to CommonMark; raw HTML is let through, as it is there."""

MARKUP = st.text(
    st.one_of(
        st.sampled_from("\\|`*_[]()<>!#&;~-+=:.\"'{}$@/ \t\n0123 abc\u00a0é"), st.characters()
    )
)


def rendered(source):
    """Kinds of tokens, and the text that a reader sees."""
    kinds, text = [], []
    for token in READER.parse(source):
        if token.type == "inline":
            kinds += [child.type for child in token.children]
            text.append("".join(child.content for child in token.children))
        else:
            kinds.append(token.type)
    return kinds, text


@settings(deadline=None, max_examples=150)
@given(MARKUP)
@example("12345. list")
@example("__a__b_")
@example("a\\|b")
@example("&amp;&#42;")
@example("[x]: http://e.org")
@example("  code\n\n    block  ")
@example("---")
@example("<!-- x")
@example("`` ` ``")
def test_markdown_shows_the_text_and_nothing_else(text):
    kinds, shown = rendered(for_markdown(text))
    assert set(kinds) <= {"paragraph_open", "text", "paragraph_close"}
    assert "".join(shown) == for_terminal(text)


@settings(deadline=None, max_examples=150)
@given(MARKUP, MARKUP)
@example("a\\", "b")
@example("\\|", "||")
def test_a_cell_of_a_table_ends_where_it_should(first, second):
    cells = [for_markdown(first), for_markdown(second)]
    kinds, shown = rendered(f"| a | b |\n| --- | --- |\n| {cells[0]} | {cells[1]} |\n")
    assert kinds.count("td_open") == 2
    assert shown[2:] == [for_terminal(first), for_terminal(second)]
    assert {kind for kind in kinds if not kind.startswith(("t", "paragraph"))} == set()


@settings(deadline=None)
@given(MARKUP)
@example("epi (ratio=0.3)")
@example(" ")
@example("a`b")
def test_code_shows_the_text_too(text):
    kinds, shown = rendered(f"| a |\n| --- |\n| {markdown_code(text)} |\n")
    assert shown[1:] == [for_terminal(text)]
    assert {"code_inline", "text"} >= {kind for kind in kinds if not kind.startswith("t")} - {
        "text"
    }
    assert kinds.count("td_open") == 1


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("full_sft", "full_sft"),
        ("epi (ratio=0.3, interval=20)", "epi (ratio=0.3, interval=20)"),
        ("-3.5 ± 1.2", "-3.5 ± 1.2"),
        ("SmolLM2-135M+chat.gguf", "SmolLM2-135M+chat.gguf"),
        ("Größe, 漢字", "Größe, 漢字"),
        ("see http://e.org, WWW.e.org", r"see http&#58;//e.org, WWW\.e.org"),
        ("me@e.org", "me&#64;e.org"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("![](javascript:x)", r"!\[\](javascript:x)"),
        ("\x1b[1m", r"\\x1b\[1m"),
        ("a $x$ b", "a &#36;x&#36; b"),
        ("# head", r"\# head"),
        ("1) item", r"1\) item"),
    ],
)
def test_the_source_of_plain_names_can_be_read(text, source):
    assert for_markdown(text) == source


def test_no_link_makes_itself():
    """GitHub finds these in the source, whatever CommonMark says."""
    for scheme in ("http", "HTTPS", "ftp", "mailto", "xmpp"):
        assert f"{scheme}:" not in for_markdown(f"go to {scheme}://e.org now")
    assert "www." not in for_markdown("www.e.org").lower()


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.comments = [], "", 0

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        self.comments += 1


@settings(deadline=None)
@given(MARKUP)
@example('"><img src=x onerror=y>')
@example("\x1b\u202e</p>")
def test_html_shows_the_text_in_an_element_and_in_an_attribute(text):
    reader = _Reader()
    reader.feed(f'<p title="{for_html(text)}">{for_html(text)}</p>')
    reader.close()
    assert reader.tags == [("p", {"title": for_terminal(text)})]
    assert (reader.text, reader.comments) == (for_terminal(text), 0)

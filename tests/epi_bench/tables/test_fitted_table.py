"""Tables that lose nothing, however narrow the terminal is."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console
from rich.text import Text

from epi_bench.foreign_text import for_terminal
from epi_bench.tables import UNLIMITED, Column, FittedTable

COLUMNS = [
    Column("rank", numeric=True),
    Column("strategy"),
    Column("average accuracy", numeric=True),
    Column("training seconds", numeric=True),
    Column("what it is", text=True),
]
ROWS = [
    ("1", "epi (learning_rate=0.0003, optimizer=sgd)", "70.5 ± 1.2", "52.4 ± 5.1", "It [b]holds."),
    ("2", "ewc", "5.0", "–", "A penalty on the distance from where the earlier tasks ended."),
]


def printed(table, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [24, 30, 40, 60, 80, 100, 120, UNLIMITED])
def test_no_line_is_too_long_and_no_word_is_lost_or_broken(width):
    text = printed(FittedTable(COLUMNS, ROWS, "Two strategies", keys=2), width)
    assert max(map(len, text.splitlines())) <= width
    shown = re.sub(r"[─:]", " ", text).split()
    for cell in [cell for row in ROWS for cell in row] + [column.title for column in COLUMNS]:
        assert set(cell.split()) <= set(shown), cell


@pytest.mark.parametrize("width", [60, 80, 100, UNLIMITED])
def test_numbers_stay_on_for_terminal(width):
    text = printed(FittedTable(COLUMNS, ROWS, keys=2), width)
    assert "70.5 ± 1.2" in text
    assert "52.4 ± 5.1" in text


def test_a_table_that_is_too_wide_goes_on_below_with_the_columns_that_name_the_rows():
    columns = [Column("task"), *(Column(f"number_{i}", numeric=True) for i in range(4))]
    table = FittedTable(columns, [("first", "1", "2", "3", "4"), ("second", "5", "6", "7", "8")])
    assert [line.split() for line in printed(table, 27).splitlines() if "─" not in line] == [
        ["task", "number_0", "number_1"],
        ["first", "1", "2"],
        ["second", "5", "6"],
        [],
        ["task", "number_2", "number_3"],
        ["first", "3", "4"],
        ["second", "7", "8"],
    ]


def test_columns_that_are_too_wide_for_any_table_become_a_list():
    columns = [Column("task"), Column("origin"), Column("n", numeric=True)]
    table = FittedTable(columns, [("first", "someone/with-a-long-name", "1"), ("second", "x", "2")])
    assert [line.split() for line in printed(table, 30).splitlines() if "─" not in line] == [
        ["task", "n"],
        ["first", "1"],
        ["second", "2"],
        [],
        ["task:", "first"],
        ["origin:"],
        ["someone/with-a-long-name"],
        ["task:", "second"],
        ["origin:", "x"],
    ]
    assert "─" not in printed(table, 8)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(8, 90),
    st.lists(
        st.tuples(st.text(max_size=30), st.text(max_size=30), st.text(max_size=90)), max_size=3
    ),
    st.integers(0, 2),
)
def test_every_character_is_shown_at_any_width(width, rows, keys):
    columns = [Column("a", numeric=True), Column("long title"), Column("text", text=True)]
    table = FittedTable(columns, rows, keys=keys)
    wanted = Counter("".join(for_terminal(cell) for row in rows for cell in row))
    lost = wanted - Counter(printed(table, width))
    assert not [character for character in lost if not character.isspace()]


def test_markup_and_terminal_codes_are_text():
    text = printed(FittedTable([Column("a")], [("[red]x[/] \x1b[31m",)], "[b]title"), 60)
    assert "[red]x[/]" in text
    assert "[b]title" in text
    assert "\x1b" not in text


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.text("\\|`*_<a>[]() \n"), st.text(), st.text()), min_size=1, max_size=3)
)
def test_readers_of_markdown_and_csv_find_the_cells(rows):
    columns = [Column("a"), Column("b", numeric=True), Column("c", code=True)]
    table = FittedTable(columns, rows)
    inner = [
        "".join(child.content for child in token.children)
        for token in MarkdownIt("commonmark").enable("table").parse(table.to_markdown())
        if token.type == "inline"
    ]
    cells = [for_terminal(cell) for row in rows for cell in row]
    assert inner == ["a", "b", "c", *cells]
    read = [cell for row in csv.reader(io.StringIO(table.to_csv())) for cell in row]
    assert [cell.removeprefix("'") for cell in read[3:]] == [c.removeprefix("'") for c in cells]


def test_rows_must_fit_the_columns():
    with pytest.raises(ValueError, match="a row of 1 cells in 5 columns"):
        FittedTable(COLUMNS, [("1",)])


def test_the_same_cells_as_csv_json_and_markdown():
    table = FittedTable(COLUMNS[1:3], [("a|b", "1"), (Text("c"), "2")])
    assert list(csv.reader(io.StringIO(table.to_csv()))) == [
        ["strategy", "average accuracy"],
        ["a|b", "1"],
        ["c", "2"],
    ]
    assert json.loads(table.to_json())[1] == {"strategy": "c", "average accuracy": "2"}
    assert table.to_markdown().splitlines() == [
        "| strategy | average accuracy |",
        "| :--- | ---: |",
        "| a&#124;b | 1 |",
        "| c | 2 |",
    ]

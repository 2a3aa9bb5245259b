"""The runs of lines between prose that are Python."""

import pytest

from epi_bench.task.code_in_prose import MOST_PARSED, code_between_prose
from epi_bench.task.program_parts import assembled, definer, joined
from epi_bench.task.python_source import read_sources


def codes(text):
    return [source.code for source in code_between_prose(text)]


def test_prose_ends_a_run_and_blank_lines_do_not():
    text = "Here it is:\nx = 1\n\ny = 2\nThat was all.\nz = 3"
    assert codes(text) == ["x = 1\n\ny = 2\n", "z = 3\n"]


def test_words_that_parse_are_prose():
    assert codes("word\nNote: this\n'quoted'.upper()\nx = 1") == ["'quoted'.upper()\nx = 1\n"]


def test_a_statement_of_several_lines_is_one_and_a_cut_one_is_left_out():
    text = "x = 1\nif x:\n    y = (\n        2\n    )\nelse:\n    y = 3\ndef f(:"
    assert codes(text) == ["x = 1\nif x:\n    y = (\n        2\n    )\nelse:\n    y = 3\n"]
    assert codes("x = (1,") == []


def test_indented_runs_lose_their_indentation():
    assert codes("So:\n    x = 1\n    y = 2\nDone.") == ["x = 1\ny = 2\n"]


def test_a_search_has_an_end():
    line = "f(" * 10
    assert codes("\n".join([line] * 400)) == []
    assert MOST_PARSED == 150_000


class TestParts:
    PARTS = read_sources("def plus(x):\n    return x + 1", "def f(x):\n    return plus(x)", "f(1)")

    def test_the_last_definition_counts_unless_it_is_empty(self):
        again = read_sources("def f(x):\n    return 2")
        empty = read_sources("def f(x):\n    pass")
        assert definer([*self.PARTS, *again], "f") == 3
        assert definer([*self.PARTS, *empty], "f") == 1

    def test_what_is_used_comes_first_and_uses_are_left_out(self):
        found = assembled(self.PARTS, {1}, frozenset({"f"}))
        assert found == "def plus(x):\n    return x + 1\n\n\ndef f(x):\n    return plus(x)\n"

    @pytest.mark.parametrize("first", ["", "x = 1\n"])
    def test_imports_from_the_future_stand_before_all(self, first):
        code = joined([first + "y = 1\n", "from __future__ import annotations\nz = 2\n"])
        assert code.startswith("from __future__ import annotations\n")
        assert code.count("__future__") == 1
        assert code.endswith("y = 1\n\n\nz = 2\n")

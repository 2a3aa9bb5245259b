"""Similarity of tasks by the words of their prompts."""

from __future__ import annotations

import doctest
import math
import sys

import pytest

from epi_bench import Example
from epi_bench.errors import UserError
from epi_bench.task import similarity
from epi_bench.task.similarity import prompt_similarity, prompt_text


def test_hand_computed():
    """Three prompts. "red" is in two of them: its weight is ln(4/3) + 1; the others' ln(4/2) + 1.

    First task: "red", the unit vector of red. Second task: the mean of "red one" and "two".
    """
    common, rare = math.log(4 / 3) + 1, math.log(4 / 2) + 1
    length = math.hypot(common, rare)
    second = (common / length, rare / length, 1.0)  # red, one, two; half of each, which cancels
    expected = second[0] / math.hypot(*second)
    found = prompt_similarity({"first": ["red"], "second": ["Red one", "two"]})
    assert found[0][1] == found[1][0] == pytest.approx(expected)
    assert [found[0][0], found[1][1]] == pytest.approx([1, 1])


def test_no_common_word_is_zero_and_the_same_prompts_are_one():
    (_, apart, same), *_ = prompt_similarity({"a": ["red 1"], "b": ["two"], "c": ["Red, 1!"]})
    assert apart == 0
    assert same == pytest.approx(1)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"a": ["?"], "b": ["..."]}, "no task of a, b has a word in its prompts"),
        ({"a": ["red"], "b": ["..."]}, "the prompts of task 'b' hold no word"),
    ],
)
def test_prompts_without_words_are_a_user_error(prompts, message):
    with pytest.raises(UserError, match=message):
        prompt_similarity(prompts)


def test_a_prompt_is_what_the_user_says():
    messages = tuple(
        {"role": role, "content": content}
        for role, content in (("system", "s"), ("user", "one"), ("assistant", "a"), ("user", "two"))
    )
    answer = {"role": "assistant", "content": "b"}
    assert prompt_text(Example((*messages, answer), "b")) == "one\ntwo"


def test_the_example_of_the_docstring_holds():
    assert doctest.testmod(similarity) == (0, 2)


def test_the_command_shows_every_pair(monkeypatch, capsys):
    from epi_bench.cli.app import main

    def call(tasks):
        monkeypatch.setattr(sys, "argv", ["epi-bench", "tasks", "similarity", tasks])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr()

    code, shown = call("mini_math,mini_instruct")
    rows = [line.replace("│", " ").split() for line in shown.out.splitlines()]
    (math_row,) = (row for row in rows if row[:1] == ["mini_math"])
    (instruct_row,) = (row for row in rows if row[:1] == ["mini_instruct"])
    assert (code, math_row[1], instruct_row[2]) == (0, "1.00", "1.00")
    assert math_row[2] == instruct_row[1]
    assert 0 <= float(math_row[2]) < 1
    code, refused = call("mini_math")
    assert code == 2
    assert refused.err == (
        "epi-bench: mini_math is one task: name at least two, separated by commas\n"
    )

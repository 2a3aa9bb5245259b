"""From what a model wrote to a program, and from counts to pass@k."""

import itertools

import pytest

from epi_bench import (
    UserError,
    complete_function,
    defined_names,
    pass_at_k,
    used_names,
)
from epi_bench.sandbox import CodeRunner, Program
from epi_bench.task.code_task import CodeTask
from epi_bench.task.example import Example, Prediction

STUB = '''import math
from typing import List

def helper(x):
    return x * 2

def double_all(numbers: List[int]) -> List[int]:
    """Double each.
    >>> double_all([1])
    [2]
    """
'''
WHOLE = "def double_all(numbers: List[int]) -> List[int]:\n    return [helper(n) for n in numbers]"


def result_of(answer, stub=STUB):
    namespace = {}
    exec(complete_function(stub, "double_all", answer), namespace)
    return namespace["double_all"]([1, 2])


@pytest.mark.parametrize(
    "answer",
    [
        WHOLE,
        f"```python\n{WHOLE}\n```",
        f"Sure! Here it is:\n\n```python\n{WHOLE}\n```\nIt doubles each number.",
        f"```\n{WHOLE}\n```",
        f"```python\n{WHOLE}",
        f"```python\n{STUB}    return [helper(n) for n in numbers]\n```",
        "    return [helper(n) for n in numbers]",
        "\n    return [helper(n) for n in numbers]\n",
        "return [helper(n) for n in numbers]",
        "```python\n    return [helper(n) for n in numbers]\n```",
        "found = []\nfor n in numbers:\n    found.append(n * 2)\nreturn found",
        "found = []\n    for n in numbers:\n        found.append(n * 2)\n    return found",
        "for n in numbers:\n        pass\n    return [helper(n) for n in numbers]",
        "\treturn [helper(n) for n in numbers]",
        "def double_all(numbers):\n    return [n * 2 for n in numbers]\n\nprint(double_all([1]))",
        "double_all = lambda numbers: [n * 2 for n in numbers]",
        "    def inner(n):\n        return n * 2\n    return list(map(inner, numbers))",
    ],
)
def test_each_style_of_answer_makes_the_same_function(answer):
    assert result_of(answer) == [2, 4]


def test_the_answers_own_helper_goes_before_the_stubs():
    answer = "def helper(x):\n    return x * 3\n\n" + WHOLE
    assert result_of(answer) == [3, 6]


@pytest.mark.parametrize("answer", ["I cannot do that.", "def double_all(numbers) return 1"])
def test_no_code_makes_no_program(answer):
    with pytest.raises(SyntaxError):
        result_of(answer)


def test_an_empty_answer_leaves_the_stub():
    assert result_of("") is None


def test_names_that_code_defines_and_uses():
    code = (
        "import re\nA, (b, *c) = 1, (2, 3)\nd: int = 4\ndef f(x):\n    y = x\nclass G:\n    z = 1\n"
    )
    assert defined_names(code) == {"A", "b", "c", "d", "f", "G"}
    assert defined_names("def f(x) return\nclass G:\n  def inner(\n") == {"f", "G"}
    assert used_names("assert f(x)[0] == G.z") == {"f", "x", "G"}
    assert used_names("assert (") == frozenset()


def test_pass_at_k_by_hand():
    assert pass_at_k(1, 1, 1) == 1
    assert pass_at_k(1, 0, 1) == 0
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)
    # 5 samples, 2 passed: of the 10 pairs, 3 lie among the 3 that failed.
    assert pass_at_k(5, 2, 2) == pytest.approx(0.7)
    assert pass_at_k(5, 2, 4) == 1  # any four hold one that passed
    assert pass_at_k(200, 1, 100) == pytest.approx(0.5)


@pytest.mark.parametrize(("samples", "passed", "k"), [(6, 2, 3), (5, 0, 2), (5, 5, 1), (7, 3, 2)])
def test_pass_at_k_is_the_share_of_draws_that_hold_a_pass(samples, passed, k):
    draws = list(itertools.combinations([True] * passed + [False] * (samples - passed), k))
    assert pass_at_k(samples, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize("numbers", [(3, 1, 0), (3, 1, 4), (3, 4, 1), (3, -1, 1)])
def test_pass_at_k_refuses_impossible_numbers(numbers):
    with pytest.raises(ValueError, match="samples"):
        pass_at_k(*numbers)


class Increment(CodeTask):
    """Add one."""

    name = "increment"

    def example_from_row(self, row):
        raise NotImplementedError

    def program(self, example, answer):
        return Program(answer, ("f",), f"assert f(1) == {example.reference}")


@pytest.mark.multi_process
def test_predictions_are_scored_together_as_one_by_one():
    task = Increment()
    (note,) = task.prepare_scoring()
    assert "'increment' runs programs that the model writes, shut off by " in note
    examples = [Example(({"role": "assistant", "content": ""},), "2")] * 4
    answers = ["def f(x):\n    return 2", "def f(x):\n    return 3", "no code", "f = print"]
    predictions = [Prediction(text) for text in answers]
    scores = task.score_all(examples, predictions)
    assert [score["pass_at_1"] for score in scores] == [1, 0, 0, 0]
    assert [score["parses"] for score in scores] == [1, 1, 0, 1]
    assert [score["timed_out"] for score in scores] == [0, 0, 0, 0]
    assert [task.score(e, p) for e, p in zip(examples, predictions, strict=True)] == scores


def test_a_system_without_a_sandbox_is_found_out_before_the_run(monkeypatch):
    def refuse(self, limits):
        raise UserError("no safe way")

    monkeypatch.setattr(CodeRunner, "__init__", refuse)
    with pytest.raises(UserError, match="no safe way"):
        Increment().prepare_scoring()

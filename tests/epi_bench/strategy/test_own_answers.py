"""Answers that a model writes to training prompts."""

from __future__ import annotations

import torch

from epi_bench import EncodedExample
from epi_bench.strategy.own_answers import (
    answer_ending,
    longest_answer,
    prompt_of,
    with_answer,
    write_answers,
)
from epi_bench.testing.toys import own_numerics, toy_model, toy_tasks

TWO_TURNS = EncodedExample(
    (2, 7, 1, 4, 8, 9, 1, 5), (False, True, True, False, True, True, True, False), weight=0.5
)


def test_the_last_answer_is_replaced_and_the_earlier_ones_stay():
    found = with_answer(TWO_TURNS, (3, 1))
    assert found.input_ids == (2, 7, 1, 4, 3, 1)
    assert found.supervised == (False, True, True, False, True, True)
    assert found.weight == 0.5
    assert prompt_of(TWO_TURNS) == (2, 7, 1, 4)
    assert longest_answer([TWO_TURNS, found]) == 3


def test_an_answer_ends_with_what_most_answers_end_with():
    cut = EncodedExample((2, 7, 8), (False, True, True))
    assert answer_ending([TWO_TURNS, TWO_TURNS, cut]) == 1
    assert answer_ending([TWO_TURNS, cut, EncodedExample((2, 6), (False, True))]) is None
    assert answer_ending([EncodedExample((2, 6), (False, False))]) is None


def test_answers_end_and_the_same_generator_writes_the_same():
    prompts = [prompt_of(example) for example in toy_tasks()[0].examples[:6]]

    def write(seed, **options):
        with own_numerics():
            return write_answers(
                toy_model(), prompts, ending=1, longest=9, count=3, temperature=1.0,
                generator=torch.Generator().manual_seed(seed), **options,
            )  # fmt: skip

    answers = write(0)
    assert answers == write(0) != write(1)
    assert [len(row) for row in answers] == [3] * 6
    for answer in (a for row in answers for a in row):
        assert len(answer) == 9 or answer[-1] == 1
        assert 1 not in answer[:-1]

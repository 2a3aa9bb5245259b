"""What strategies are offered by the loop."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epi_bench import EncodedExample, Experience, TrainingFailedError, UserError
from epi_bench.training.context import TrainingContext


def context(seed):
    return TrainingContext(torch.nn.Identity(), seed, torch.device("cpu"), 9, 10, 2)


def test_a_purpose_and_a_seed_give_the_same_draws():
    """The text that seeds them decides the numbers of every published run."""
    draws = context(3).generator("replay").random()
    assert draws == random.Random("replay 3").random()
    assert draws == context(3).generator("replay").random()
    assert draws != context(4).generator("replay").random()
    assert draws != context(3).generator("batches").random()
    first, again = (context(3).torch_generator("replay").initial_seed() for _ in range(2))
    assert first == again == random.Random("replay 3").getrandbits(63)


def test_batches_hold_the_examples_in_their_order():
    examples = [EncodedExample((n, n, n)[: n + 1], (True,) * min(n + 1, 3)) for n in range(3)]
    first, second = context(0).batches(examples, 2)
    assert first["input_ids"].tolist() == [[0, 9], [1, 1]]
    assert second["input_ids"].tolist() == [[2, 2, 2]]


def experience_of(tokens):
    """An example for each number; equal numbers make equal examples."""
    examples = [EncodedExample((n, n), (False, True)) for n in tokens]
    return Experience(2, "numbers", ("numbers",), examples, 5)


@given(st.lists(st.integers(0, 20), min_size=2), st.integers(1, 30), st.integers(0, 5))
def test_what_is_held_out_is_nowhere_in_what_is_left(tokens, count, seed):
    experience = experience_of(tokens)
    different = len(set(tokens))
    if different < 2:
        with pytest.raises(TrainingFailedError, match="'numbers' has 1 different training"):
            context(seed).validation_split(experience, count)
        return
    offered = context(seed)
    split = offered.validation_split(experience, count)
    assert len(split.validation) == min(count, different // 2) == len(set(split.validation))
    assert offered.cost.held_out == {"2": len(split.validation)}
    assert not set(split.training) & set(split.validation)
    assert set(split.training) | set(split.validation) == set(experience.examples)
    left = [example for example in experience.examples if example not in split.validation]
    assert split.training == left
    assert context(seed).validation_split(experience, count) == split


def test_another_seed_or_experience_holds_others_out():
    experience = experience_of(range(100))
    split = context(0).validation_split(experience, 10)
    assert context(1).validation_split(experience, 10) != split
    later = Experience(3, "numbers", ("numbers",), experience.examples, 5)
    assert context(0).validation_split(later, 10) != split


def test_tokens_of_a_strategys_batches_are_counted():
    offered = context(0)
    examples = experience_of(range(5)).examples
    next(offered.batches(examples, 2))
    assert offered.cost.extra_tokens == 4  # two examples of two tokens; the others were not asked
    list(offered.batches(examples, 2))
    assert offered.cost.extra_tokens == 14


def test_a_context_without_a_loop_says_what_it_cannot_do():
    with pytest.raises(UserError, match="only the training loop of epi-bench trains"):
        context(0).probe([], 1, "probe")
    with pytest.raises(UserError, match="whose needs name 'all tasks'"):
        len(context(0).experiences)

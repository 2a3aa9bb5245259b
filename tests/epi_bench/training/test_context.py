"""What strategies are offered by the loop."""

from __future__ import annotations

import random

import torch

from epi_bench import EncodedExample
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

"""A generator that takes up a state draws what the other one would have drawn."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from epi_bench import generator_state, set_generator_state


def _python(seed):
    generator = random.Random(seed)
    return generator, lambda: [generator.gauss(0, 1), generator.random(), generator.randrange(99)]


def _torch(seed):
    generator = torch.Generator().manual_seed(seed)
    return generator, lambda: torch.randn(5, generator=generator).tolist()


def _numpy(seed):
    generator = np.random.default_rng(seed)
    return generator, lambda: generator.normal(size=5).tolist()


def _older_numpy(seed):
    generator = np.random.Generator(np.random.MT19937(seed))
    return generator, lambda: generator.normal(size=5).tolist()


@pytest.mark.parametrize("make", [_python, _torch, _numpy, _older_numpy])
def test_the_next_draws_are_the_same(make):
    (generator, draw), (other, draw_other) = make(1), make(2)
    draw()  # random.gauss keeps a second number for the next call: it belongs to the state
    state = generator_state(generator)
    assert state.dtype == torch.uint8
    expected = draw()
    assert draw_other() != expected
    set_generator_state(other, state)
    assert draw_other() == expected
    set_generator_state(other, state)  # the state is no view of a generator that goes on
    assert draw_other() == expected

"""The text that seeds a generator decides the numbers of every published run."""

from __future__ import annotations

import random

from epi_bench.spec.randomness import seeded_generator


def test_a_generator_is_seeded_with_purpose_and_seed_as_text():
    assert seeded_generator("task order", 7).getstate() == random.Random("task order 7").getstate()


def test_purposes_and_seeds_draw_independently():
    draws = {
        seeded_generator(purpose, seed).random()
        for purpose in ("task order", "mixing of experience 0", "batches of experience 0")
        for seed in range(3)
    }
    assert len(draws) == 9

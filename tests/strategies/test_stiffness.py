"""Strategies that draw weights back say where in the model they do."""

from __future__ import annotations

import pytest
import torch

from epi_bench.strategy.stiffness_shares import stiffness_shares
from epi_bench.strategy.strategy import STRATEGIES, create_strategy
from epi_bench.testing import toy_loop, toy_tasks
from epi_bench.testing.toys import own_numerics

GRADED = {
    "epi_similarity": {"fisher_samples": 2},
    "epi_consolidated": {"fisher_samples": 2},
    "forgetting_price": {"fisher_samples": 2},
    "ewc": {"fisher_samples": 2},
    "mas": {"samples": 2},
    "si": {},
    "l2_sp": {},
}

STRENGTH = {
    "epi_similarity": "penalty", "epi_consolidated": "penalty", "forgetting_price": "price",
    "ewc": "strength", "mas": "strength", "si": "strength", "l2_sp": "strength",
}  # fmt: skip


def _seen(name, **options):
    """The shares at the end of each toy task, as a run asks for them."""
    seen = []
    strategy = create_strategy(name, {**GRADED[name], **options})
    with own_numerics():
        loop = toy_loop(strategy)
        for experience in toy_tasks():
            loop.train(
                experience,
                before_end=lambda: seen.append(stiffness_shares(strategy.stiffness())),
            )
    return seen


@pytest.mark.parametrize("name", GRADED)
def test_nothing_is_drawn_back_in_the_first_task_and_the_whole_model_in_the_second(name):
    first, second = _seen(name)
    assert first == {}
    kinds = [share for part, share in second.items() if not part.startswith("layer_")]
    assert sum(share.weights for share in kinds) == pytest.approx(1)
    assert sum(share.stiffness for share in kinds) == pytest.approx(1)
    assert {"attention", "mlp", "layer_0", "layer_1"} <= set(second)


@pytest.mark.parametrize("name", GRADED)
def test_without_strength_nothing_is_drawn_back(name):
    assert _seen(name, **{STRENGTH[name]: 0.0}) == [{}, {}]


def test_every_weight_counts_the_same_for_l2_sp():
    for share in _seen("l2_sp")[1].values():
        assert share.stiffness == pytest.approx(share.weights)


def test_the_terms_of_ewc_add_up():
    found = {}
    for mode in ("online", "separate"):
        with own_numerics():
            strategy = create_strategy("ewc", {"mode": mode, "strength": 1.0, "fisher_samples": 2})
            loop = toy_loop(strategy)
            strategy.end_experience(toy_tasks()[0])
            strategy.end_experience(toy_tasks()[1])
            found[mode] = strategy.stiffness()
        assert loop.steps_done == 0
    assert found["online"].keys() == found["separate"].keys() != set()
    for name, tensor in found["online"].items():
        assert torch.allclose(tensor, found["separate"][name])


def test_others_have_none():
    assert create_strategy("full_sft", {}).stiffness() == {}
    overriding = {
        name
        for name in STRATEGIES.names()
        if STRATEGIES.is_builtin(name)
        and STRATEGIES.get(name).stiffness is not STRATEGIES.get("full_sft").stiffness
    }
    assert overriding >= set(GRADED)

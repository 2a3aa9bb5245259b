"""Strategies that protect the base model from the first step on."""

from __future__ import annotations

import pytest
import torch

from epi_bench.errors import UserError
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.strategy.strategy import STRATEGIES, complete_strategy_options, create_strategy
from epi_bench.testing.checks import CHECKS, _Subject
from epi_bench.testing.resuming import resuming_problem
from epi_bench.testing.toys import own_numerics, toy_loop, toy_tasks

PROTECTING = {
    "ewc": {"strength": 1e6},
    "mas": {"strength": 1e3, "samples": 4},
    "epi_consolidated": {"penalty": 1e4, "fisher_samples": 4},
    "epi_similarity": {"penalty": 1e4, "sharpness": 0.0, "fisher_samples": 4},
    "forgetting_price": {"price": 100.0, "fisher_samples": 4},
    "static_mask": {"ratio": 0.9},
    "epi": {"ratio": 0.9, "warmup": 100},
}


@pytest.fixture(autouse=True)
def _few_texts(monkeypatch):
    """Of those on which masks are measured."""
    monkeypatch.setattr("epi_bench.strategy.isolation_strategy.BASE_EXAMPLES", 16)


@pytest.fixture(scope="module")
def unprotected_way():
    """Of every strategy here without protection of the base: they all act from the second on."""
    return _way_in_the_first_task("full_sft")


def _way_in_the_first_task(name, **options):
    """How far the weights go in it."""
    with own_numerics():
        loop = toy_loop(create_strategy(name, {**PROTECTING.get(name, {}), **options}))
        weights = [p.detach().clone() for p in loop.model.parameters()]
        loop.train(toy_tasks()[0])
        moved = zip(weights, loop.model.parameters(), strict=True)
        return sum(float((a - b).detach().square().sum()) for a, b in moved)


@pytest.mark.parametrize(
    ("name", "source"), [*((name, "self") for name in PROTECTING), ("static_mask", "general_text")]
)
def test_the_first_task_moves_a_protected_base_less(name, source, unprotected_way):
    held = _way_in_the_first_task(name, protect_base=source)
    assert 0 < held < 0.9 * unprotected_way


@pytest.mark.parametrize("name", PROTECTING)
def test_no_protection_of_the_base_is_no_option_of_a_run(name):
    """So runs from before there was the option stay the same runs."""
    assert "protect_base" not in complete_strategy_options(name, {})
    given = complete_strategy_options(name, {"protect_base": "self"})
    assert given["protect_base"] == "self"
    strategy = create_strategy(name, {"protect_base": "self"})
    assert strategy.acts_from == 0


@pytest.mark.parametrize("name", PROTECTING)
def test_the_base_is_not_measured_again_where_a_run_goes_on(name):
    options = {**PROTECTING[name], "protect_base": "self"}
    assert resuming_problem(lambda: create_strategy(name, options), points=(0,)) is None


def test_what_is_protected_is_what_mattered_for_the_text():
    """As at the end of a task that has the text as its examples."""
    with own_numerics():
        strategy = create_strategy("ewc", {"protect_base": "general_text", "fisher_samples": 4})
        loop = toy_loop(strategy)
        strategy.begin_training()
        other = create_strategy("ewc", {"fisher_samples": 4})
        other.context = loop.context
        base = loop.context.base_experience("general_text", 4)
        other.end_experience(base)
        assert (base.index, base.steps, len(base.examples)) == (-1, 0, 4)
    pairs = strategy.state_dict(), other.state_dict()
    assert pairs[0].keys() == pairs[1].keys() != set()
    assert all(torch.equal(pairs[0][key], pairs[1][key]) for key in pairs[0])


def test_an_average_that_is_the_optimizers_cannot_say_anything_of_the_base():
    strategy = create_strategy("epi", {"importance": "optimizer", "protect_base": "self"})
    with pytest.raises(UserError, match="nothing to read before the first step"):
        strategy.check_run(TrainingSpec(steps=3), [3])


def test_a_base_that_is_protected_by_a_mask_is_no_warning_of_a_long_warm_up():
    spec = TrainingSpec(steps=3)
    assert create_strategy("epi", {"warmup": 9}).check_run(spec, [3])
    assert not create_strategy("epi", {"warmup": 9, "protect_base": "self"}).check_run(spec, [3])


@pytest.mark.parametrize("name", ["ewc", "epi_similarity"])
def test_the_base_is_measured_without_calling_another_hook(name):
    options = {"protect_base": "self", "fisher_samples": 4}
    subject = _Subject(STRATEGIES.get(name), options)
    assert CHECKS["hooks"](subject) is None
    assert CHECKS["accumulation"](subject) is None


def test_strategies_without_the_option_protect_none():
    assert STRATEGIES.get("full_sft").protect_base == "none"

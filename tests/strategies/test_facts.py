"""What each built-in strategy says about itself is true on a small model."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from epi_bench.plugins.options import check_options, options_of
from epi_bench.strategy.catalogue import entry_of, search_space_of
from epi_bench.strategy.facts import FAMILIES, NEEDS
from epi_bench.strategy.strategy import STRATEGIES, create_strategy
from epi_bench.testing import toy_loop, toy_tasks
from epi_bench.testing.toys import STEPS, own_numerics

BUILTIN = [name for name in STRATEGIES.names() if STRATEGIES.is_builtin(name)]

SOON = {
    "warmup": 1, "interval": 2, "fisher_samples": 2, "samples": 2, "check_every": 1, "per_task": 8,
    "least_yield": 0.0, "candidates": 1,
}  # fmt: skip
"""Options with which a strategy acts within the few steps of a toy task, and is quick."""

LONGER = {"agem": 15, "early_stop": 30}
"""Steps of a toy task, where it takes more than usual until a strategy does anything."""

LOADED_AGAIN = {"kl_to_base", "self_output", "ssr"}
"""Strategies whose earlier weights are the model as it was loaded, which is no state."""

WIDTH = 64


def _made(name):
    known = options_of(STRATEGIES.get(name))
    return create_strategy(name, {k: v for k, v in SOON.items() if k in known})


def _model(width=WIDTH):
    """A Llama of which the matrices are nearly all, as in a real one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=32,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=32,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=1,
                pad_token_id=0,
                use_cache=False,
            )
        ).eval()


def _bytes(name, width):
    """Bytes of the state after three experiences, and the model's parameters."""
    first, second = toy_tasks(2)
    strategy, model = _made(name), _model(width)
    parameters = sum(p.numel() for p in model.parameters())
    with own_numerics():
        loop = toy_loop(strategy, model=model)
        for experience in (first, second, replace(first, index=2)):
            loop.train(experience)
    return strategy.state_bytes(), parameters


@pytest.mark.parametrize("name", BUILTIN)
def test_a_strategy_states_its_family_and_its_option_with_values(name):
    cls = STRATEGIES.get(name)
    entry = entry_of(name, cls)
    assert entry.family in set(FAMILIES) - {"other"}
    assert set(cls.needs) <= set(NEEDS) - {"old data"}
    assert entry.bytes_per_parameter
    if entry.trade_off is None:
        return
    option = options_of(cls)[entry.trade_off.option]
    values = entry.trade_off.values
    assert option.default in values
    assert len(values) >= 3
    assert list(values) in (sorted(values), sorted(values, reverse=True))
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("name", BUILTIN)
def test_a_search_tries_settings_that_can_be_made(name):
    cls = STRATEGIES.get(name)
    settings = search_space_of(cls)
    assert len(settings) >= 1
    for options in settings:
        cls(**check_options(f"strategy {name!r}", cls, options))


def test_few_strategies_have_no_such_option():
    without = {name for name in BUILTIN if STRATEGIES.get(name).trade_off is None}
    assert without == {"full_sft", "agem", "flow"}


@pytest.mark.parametrize("name", BUILTIN)
def test_a_strategy_keeps_as_many_bytes_as_it_says(name):
    """Of what is more than the weights, such as stored examples, only the growth counts."""
    cls = STRATEGIES.get(name)
    defaults = {option.name: option.default for option in options_of(cls).values()}
    known = {**defaults, "experiences": 3, "width": WIDTH}
    stated = eval(cls.bytes_per_parameter, {"__builtins__": {}}, known)
    held, parameters = _bytes(name, WIDTH)
    if cls.stores_examples or cls.family == "rehearsal":
        less, fewer = _bytes(name, WIDTH // 2)
        held, parameters = held - less, parameters - fewer
    assert 0.7 * stated <= held / parameters <= 1.01 * stated + 0.001


MATRIX = "model.layers.0.self_attn.q_proj.weight"


@cache
def _trained(name, told=True):
    """A strategy after both toy tasks, the finished weights, and a matrix as it was at each end.

    Args:
        name: Of the strategy.
        told: Whether it is told where the tasks end, or takes both for one.
    """
    strategy = _made(name)
    if not told:
        begin, end = strategy.begin_experience, strategy.end_experience
        strategy.begin_experience = lambda e: begin(e) if e.index == 0 else None
        strategy.end_experience = lambda e: end(e) if e.index == 1 else None
    # large steps, so that the second task is at odds with the first
    training = {"learning_rate": 3e-2, "max_gradient_norm": 0.0}
    with own_numerics():
        loop = toy_loop(strategy, training=training)
        parameters = dict(loop.model.named_parameters())
        matrix = parameters.get(MATRIX, torch.zeros(0))
        earlier = [matrix.detach().clone()]
        for experience in toy_tasks(LONGER.get(name, STEPS)):
            loop.train(experience)
            earlier.append(matrix.detach().clone())
        state = strategy.state_dict()
        return dict(strategy.finalize_model(loop.model).named_parameters()), state, earlier


@pytest.mark.parametrize("name", BUILTIN)
def test_a_strategy_that_needs_boundaries_ends_otherwise_without_them(name):
    told, untold = _trained(name)[0], _trained(name, told=False)[0]
    same = all(torch.equal(told[key], untold[key]) for key in told)
    assert same == ("boundaries" not in STRATEGIES.get(name).needs)


@pytest.mark.parametrize("name", BUILTIN)
def test_a_strategy_that_needs_earlier_weights_has_them_in_its_state(name):
    _, state, earlier = _trained(name)
    kept = any(
        tensor.numel() and tensor.shape == before.shape and torch.equal(tensor, before)
        for tensor in state.values()
        for before in earlier
    )
    assert kept == ("old weights" in STRATEGIES.get(name).needs and name not in LOADED_AGAIN)

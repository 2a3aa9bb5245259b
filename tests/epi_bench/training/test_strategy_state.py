"""A strategy gets back what it returned, in its order, and what it forgot is named."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from epi_bench import Strategy
from epi_bench.training.loop_state import StateMismatchError
from epi_bench.training.strategy_state import put_strategy_state, strategy_state


class Keeping(Strategy):
    def __init__(self, **kept):
        self.kept = kept

    def state_dict(self):
        return dict(self.kept)

    def load_state_dict(self, state):
        self.kept = dict(state)


def _through_a_file(strategy, model):
    """Files of tensors are read in alphabetical order."""
    values, tensors = strategy_state(strategy, model)
    return json.loads(json.dumps(values)), dict(sorted(tensors.items()))


def test_the_order_and_the_types_of_the_state_are_kept():
    model, later = nn.Linear(1, 1), Keeping()
    state = {"b": torch.ones(2, dtype=torch.bfloat16), "a": torch.tensor(3), "c": torch.zeros(0)}
    values, tensors = _through_a_file(Keeping(**state), model)
    put_strategy_state(later, model, torch.device("cpu"), values, tensors)
    assert list(later.kept) == ["b", "a", "c"]
    assert all(torch.equal(later.kept[name], tensor) for name, tensor in state.items())
    assert later.kept["b"].dtype == torch.bfloat16
    assert later.kept["b"].data_ptr() != tensors["b"].data_ptr()


class Forgetful(Keeping):
    def __init__(self, **kept):
        super().__init__(**kept)
        self.seen = 0


def test_what_is_forgotten_is_named():
    model, strategy = nn.Linear(1, 1), Forgetful(a=torch.ones(1))
    strategy.seen = 2
    values, tensors = _through_a_file(strategy, model)
    with pytest.raises(StateMismatchError, match="Forgetful keeps seen, which its state_dict does"):
        put_strategy_state(Forgetful(), model, torch.device("cpu"), values, tensors)


def test_what_is_no_tensor_is_refused_where_it_is_saved():
    with pytest.raises(StateMismatchError, match="gives float for 'a': give tensors"):
        strategy_state(Keeping(a=0.5), nn.Linear(1, 1))

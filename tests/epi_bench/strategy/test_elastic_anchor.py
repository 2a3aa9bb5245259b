"""Graded protection against the closed form and its limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from epi_bench import ElasticAnchor, normalise, unit_mean

finite = st.floats(-100, 100, width=32)


def _parameter(*values):
    return nn.Parameter(torch.tensor(values))


def test_displacement_is_divided_by_one_plus_rate_times_stiffness():
    weight = _parameter(1.0, 1.0, 1.0, 1.0)
    anchor = ElasticAnchor({"w": weight})
    anchor.fix({"w": torch.tensor([0.0, 1.0, 3.0, float("inf")])})
    with torch.no_grad():
        weight.add_(8.0)
    anchor.draw(rate=1.0)
    assert weight.tolist() == [9.0, 5.0, 3.0, 1.0]


@given(anchored=finite, moved=finite, stiffness=st.floats(0, 1e6, width=32))
def test_the_step_minimises_the_proximal_objective(anchored, moved, stiffness):
    weight = _parameter(anchored)
    anchor = ElasticAnchor({"w": weight})
    anchor.fix({"w": torch.tensor([stiffness])})
    with torch.no_grad():
        weight.fill_(moved)
    anchor.draw(rate=0.1)

    def objective(x):
        return 0.5 * (x - moved) ** 2 + 0.05 * stiffness * (x - anchored) ** 2

    reached = objective(weight.item())
    slack = 1e-3 * (1 + abs(reached))
    assert reached <= objective(weight.item() + 0.1) + slack
    assert reached <= objective(weight.item() - 0.1) + slack


def test_without_an_anchor_nothing_is_drawn_and_a_state_is_taken_up():
    weight = _parameter(1.0, 2.0)
    anchor = ElasticAnchor({"w": weight})
    anchor.draw(1.0)
    assert weight.tolist() == [1.0, 2.0]
    assert anchor.bytes() == 0
    anchor.fix({"w": torch.ones(2)})
    again = ElasticAnchor({"w": weight})
    again.load_state_dict(anchor.state_dict())
    with torch.no_grad():
        weight.add_(2.0)
    again.draw(1.0)
    assert weight.tolist() == [2.0, 3.0]
    assert again.bytes() == anchor.bytes() == 16


def test_ranks_are_shares_of_the_tensor_and_zero_stays_zero():
    scores = torch.tensor([[0.0, 5.0], [1.0, 9.0]])
    assert normalise(scores, "rank").tolist() == [[0.0, 0.75], [0.5, 1.0]]


def test_unit_mean_keeps_how_tensors_compare():
    scaled = unit_mean({"a": torch.tensor([2.0, 4.0]), "b": torch.tensor([[0.0], [2.0]])})
    assert scaled["a"].tolist() == pytest.approx([1.0, 2.0])
    assert scaled["b"].tolist() == [[0.0], [pytest.approx(1.0)]]
    assert unit_mean({"a": torch.zeros(3)})["a"].tolist() == [0.0, 0.0, 0.0]


def test_bfloat16_weights_are_drawn_as_far_as_others_on_average():
    """A pull of a thousandth is less than bfloat16 can tell apart: rounded to the nearest, nothing
    would ever be drawn back."""
    weight = nn.Parameter(torch.full((20_000,), 3.0, dtype=torch.bfloat16))
    anchor = ElasticAnchor({"w": weight})
    anchor.fix({"w": torch.ones(20_000)})
    with torch.no_grad():
        weight.fill_(5.0)
    for _ in range(100):
        anchor.draw(rate=0.001)
    assert weight.dtype == torch.bfloat16
    expected = 3 + 2 / 1.001**100
    assert float(weight.detach().float().mean()) == pytest.approx(expected, abs=0.005)


def test_the_rounding_of_bfloat16_weights_goes_on_where_it_was():
    weight = nn.Parameter(torch.full((64,), 3.0, dtype=torch.bfloat16))
    anchor = ElasticAnchor({"w": weight})
    anchor.fix({"w": torch.ones(64)})
    with torch.no_grad():
        weight.fill_(5.0)
    anchor.draw(rate=0.001)
    reached, held = weight.detach().clone(), anchor.bytes()
    state = {name: tensor.clone() for name, tensor in anchor.state_dict().items()}
    anchor.draw(rate=0.001)
    expected = weight.detach().clone()
    again = ElasticAnchor({"w": weight})
    again.load_state_dict(state)
    with torch.no_grad():
        weight.copy_(reached)
    again.draw(rate=0.001)
    assert torch.equal(weight.detach(), expected)
    fresh = ElasticAnchor({"w": weight})
    fresh.load_state_dict({name: t for name, t in state.items() if name != "rounding"})
    with torch.no_grad():
        weight.copy_(reached)
    fresh.draw(rate=0.001)
    assert not torch.equal(weight.detach(), expected)  # so the rounding makes a difference here
    assert held == again.bytes() == 64 * (2 + 4)  # the generator counts as nothing


def test_an_infinitely_stiff_bfloat16_weight_is_exactly_at_its_anchor():
    weight = nn.Parameter(torch.tensor([0.1, 3.0], dtype=torch.bfloat16))
    anchored = weight.detach().clone()
    anchor = ElasticAnchor({"w": weight})
    anchor.fix({"w": torch.full((2,), float("inf"))})
    with torch.no_grad():
        weight.add_(1.0)
    anchor.draw(rate=0.1)
    assert torch.equal(weight.detach(), anchored)

"""How much a quadratic predicts, against curvatures by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.strategy.path_scale import scale_on_path
from epi_bench.testing.toys import toy_model


class Bowl:
    """A context whose loss is ``3 (w - 1)^2``: a curvature of 6."""

    def __init__(self):
        self.model = nn.Module()
        self.model.w = nn.Parameter(torch.tensor([1.0]))

    def batches(self, examples, batch_size):
        return iter([{"labels": torch.zeros(1, 2, dtype=torch.long)}])

    def loss(self, model, batch):
        return 3 * (model.w - 1).square().sum()


def measured(way, tries=8, **changes):
    context = Bowl()
    settings = {"rise": 0.05, "loss_at_origin": 0.0, "part": 1.0, "most": math.inf} | changes
    with torch.no_grad():
        context.model.w += way
    found = scale_on_path(
        context,
        {"w": context.model.w},
        {"w": torch.tensor([1.0])},
        {"w": torch.tensor([way])},
        {"w": torch.tensor([0.5])},
        [EncodedExample((0, 1), (False, True))],
        tries=tries,
        **settings,
    )
    assert context.model.w.item() == pytest.approx(1 + way)
    return found


@pytest.mark.parametrize("way", [0.01, -0.01, 0.5])
def test_of_a_quadratic_it_is_the_quotient_of_the_curvatures(way):
    found = measured(way)
    assert found.scale == pytest.approx(6 / 0.5, rel=1e-3)
    assert found.part == pytest.approx(math.sqrt(0.05 / 3) / abs(way), rel=1e-3)


def test_it_goes_no_further_than_allowed():
    assert measured(0.01, most=2.0).part == 2.0


def test_a_loss_that_does_not_rise_has_no_scale():
    assert measured(0.01, loss_at_origin=1.0, most=2.0).scale is None
    assert measured(0.0).scale is None


def test_the_model_is_left_in_its_mode():
    model = toy_model().train()
    bowl = Bowl()
    context = SimpleNamespace(model=model, batches=bowl.batches, loss=lambda *_: torch.tensor(1.0))
    parameters = dict(model.named_parameters())
    zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
    ones = {name: torch.ones_like(p) for name, p in parameters.items()}
    before = {name: p.detach().clone() for name, p in parameters.items()}
    scale_on_path(context, parameters, zeros, ones, ones, [], rise=0.1, loss_at_origin=0.0,
                  part=1.0, most=1.0, tries=2)  # fmt: skip
    assert model.training
    assert all(torch.equal(before[name], p) for name, p in parameters.items())

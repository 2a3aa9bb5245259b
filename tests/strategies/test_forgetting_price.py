"""The price of forgetting, in nats."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from epi_bench.errors import UserError
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.strategies.forgetting_price import gradient_metric
from epi_bench.strategy.elastic_anchor import ElasticAnchor
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing.toys import own_numerics, toy_loop, toy_tasks


def _weight(values):
    return nn.Parameter(torch.tensor(values))


def test_the_metric_of_adam_is_its_bias_corrected_second_moment():
    weight = _weight([1.0, 1.0])
    optimizer = torch.optim.AdamW([weight], lr=0.1, betas=(0.9, 0.999), eps=0.5)
    weight.grad = torch.tensor([3.0, -4.0])
    optimizer.step()
    # v = 0.001 g^2, corrected by 1 - 0.999: |g|
    assert gradient_metric({"w": weight}, optimizer)["w"].tolist() == pytest.approx([3.5, 4.5])


def test_the_metric_of_momentum_is_how_much_it_adds_up_to():
    weight = _weight([1.0])
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    assert float(gradient_metric({"w": weight}, optimizer)["w"]) == pytest.approx(0.1)
    assert gradient_metric({"w": weight}, torch.optim.SGD([weight], lr=0.1)) == {}


def test_a_pull_in_a_metric_by_hand():
    weight = _weight([1.0])
    anchor = ElasticAnchor({"weight": weight})
    anchor.fix({"weight": torch.tensor([6.0])})
    weight.data += 8
    assert anchor.energy() == 6 * 64 / 2
    anchor.draw(1.0, {"weight": torch.tensor([2.0])})
    assert weight.item() == 1 + 8 / (1 + 6 / 2)


def test_the_balance_point_is_where_gradient_and_price_meet():
    """Minimum of (x - 3)^2 / 2 + price k x^2 / 2, for plain and for adaptive steps."""
    for make in (
        lambda p: torch.optim.SGD(p, lr=0.05),
        lambda p: torch.optim.AdamW(p, lr=0.002, weight_decay=0.0),
    ):
        weight = _weight([0.0])
        anchor = ElasticAnchor({"w": weight})
        anchor.fix({"w": torch.tensor([2.0])})
        optimizer = make([weight])
        for _ in range(4_000):
            weight.grad = weight.detach() - 3
            optimizer.step()
            rate = 1.0 * optimizer.param_groups[0]["lr"]
            anchor.draw(rate, gradient_metric({"w": weight}, optimizer))
        assert weight.item() == pytest.approx(3 / (1 + 2), rel=0.02)


class Quadratic:
    """A context whose loss is ``(w - 2)^2``, whatever the examples."""

    seed = 0

    def __init__(self, start):
        self.model = nn.Module()
        self.model.w = _weight([start])

    def generator(self, purpose):
        return SimpleNamespace(sample=lambda population, k: population[:k])

    def batches(self, examples, batch_size):
        labels = torch.zeros(1, 2, dtype=torch.long)
        return iter([{"labels": labels} for _ in examples])

    def loss(self, model, batch):
        return (model.w - 2).square().sum()

    def base_experience(self, source, count):
        return SimpleNamespace(examples=[EncodedExample((0, 1), (False, True))])


@pytest.mark.parametrize("rise", [0.01, 0.05])
def test_the_scale_makes_the_quadratic_right(rise):
    context = Quadratic(start=0.0)
    strategy = create_strategy("forgetting_price", {"rise": rise, "fisher_samples": 1})
    strategy.context = context
    strategy.begin_experience(SimpleNamespace(index=0))
    with torch.no_grad():
        context.model.w.fill_(1.9)  # nearly learned: F = (2 * 0.1)^2 = 0.04
    strategy.end_experience(SimpleNamespace(index=0, examples=[None]))
    # from 1.9 back by 1.9 a, (0.1 + 1.9 a)^2 - 0.01 = rise
    part = ((rise + 0.01) ** 0.5 - 0.1) / 1.9
    expected = rise / (part**2 / 2 * 0.04 * 1.9**2)
    assert strategy._scale == pytest.approx(expected, rel=0.1)
    assert context.model.w.item() == pytest.approx(1.9)
    with torch.no_grad():
        context.model.w -= 1.9 * part
    assert strategy.diagnostics()["predicted_loss"] == pytest.approx(rise, rel=0.1)


def _step(optimizer, number):
    return SimpleNamespace(optimizer=optimizer, number_in_experience=number)


def test_the_scale_of_the_base_model_is_that_of_the_way_that_training_takes():
    """It is measured after steps 2, 4, 8, ... where the loss has risen by ``rise``."""
    context = Quadratic(start=2.1)
    strategy = create_strategy("forgetting_price", {"protect_base": "self", "fisher_samples": 1})
    strategy.context = context
    strategy.begin_training()
    strategy.begin_experience(SimpleNamespace(index=0))
    optimizer = torch.optim.SGD([context.model.w], lr=0.0)
    with torch.no_grad():
        context.model.w += 0.02
    strategy.parameters_updated(_step(optimizer, 1))
    assert strategy.diagnostics() == {}
    strategy.parameters_updated(_step(optimizer, 2))
    # the loss rises by 2 * .1 * x + x^2: by .05 at x = .145, where F x^2 / 2 is .00042
    assert strategy.diagnostics()["base_scale"] == pytest.approx(0.05 / 0.00042, rel=0.1)
    assert strategy.diagnostics()["base_rise_measured"] == pytest.approx(0.0044, rel=0.01)
    before = strategy.diagnostics()["base_scale"]
    strategy.parameters_updated(_step(optimizer, 3))
    assert strategy.diagnostics()["base_scale"] == before
    predicted = before * 0.04 * 0.02**2 / 2
    strategy.parameters_updated(_step(optimizer, 4))
    assert strategy.diagnostics()["base_rise_predicted"] == pytest.approx(predicted, rel=0.01)
    assert context.model.w.item() == pytest.approx(2.12)


def test_a_higher_price_moves_less_in_the_second_experience():
    ways = []
    for price in (0.0, 2.5, 1000.0):
        with own_numerics():
            strategy = create_strategy("forgetting_price", {"price": price})
            loop = toy_loop(strategy)
            first, second = toy_tasks()
            loop.train(first)
            before = [p.detach().clone() for p in loop.model.parameters()]
            loop.train(second)
            after = list(loop.model.parameters())
        ways.append(
            sum(float((a - b).detach().square().sum()) for a, b in zip(after, before, strict=True))
        )
    assert ways[0] > ways[1] > ways[2] > 0


def test_adafactor_is_refused():
    with pytest.raises(UserError, match="adafactor"):
        create_strategy("forgetting_price", {}).check_run(
            TrainingSpec(steps=3, optimizer="adafactor"), [3]
        )

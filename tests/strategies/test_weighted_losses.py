"""FLOW and TALR: what examples and tokens weigh, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from epi_bench.errors import UserError
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.strategies.flow import easiness
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing.resuming import resuming_problem
from epi_bench.testing.toys import own_numerics, toy_loop, toy_tasks
from epi_bench.training.context import TrainingContext


class Table(nn.Module):
    """Predicts token j with probability e^-(j + 1), and token 0 with what is left."""

    def __init__(self):
        super().__init__()
        rest = torch.tensor([-2.0, -3.0, -4.0]).exp()
        self.logits = nn.Parameter(torch.cat([1 - rest.sum()[None], rest]).log())

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1).clone())


def _example(*tokens):
    return EncodedExample((0, *tokens), (False,) + (True,) * len(tokens))


def _with_context(name, **options):
    strategy = create_strategy(name, options)
    strategy.context = TrainingContext(Table(), 0, torch.device("cpu"), 0, 1, 1)
    return strategy


def test_flow_by_hand():
    """Losses 1, 2, 3: the median is 2, so the weights are e^-0.5, e^-1 and e^-1.5."""
    assert easiness([1.0, 2.0, 3.0]) == pytest.approx([0.6065, 0.3679, 0.2231], abs=1e-4)
    assert easiness([0.0, 0.0, 3.0]) == [1.0, 1.0, 1.0]
    # mean losses (2 + 3 + 4) / 3 = 3, 2 and 4
    experience = SimpleNamespace(examples=[_example(1, 2, 3), _example(1, 1), _example(3)])
    flow = _with_context("flow")
    found = [example.weight for example in flow.training_examples(experience)]
    assert found == pytest.approx([0.3679, 0.5134, 0.2636], abs=1e-4)
    assert flow.diagnostics()["mean_weight"] == pytest.approx(sum(found) / 3)
    scaled = _with_context("flow", normalise="mean1").training_examples(experience)
    weights = [example.weight for example in scaled]
    assert sum(weights) / 3 == pytest.approx(1.0)
    assert weights[1] / weights[0] == pytest.approx(found[1] / found[0])
    assert [e.input_ids for e in scaled] == [e.input_ids for e in experience.examples]


def test_talr_by_hand():
    talr = _with_context("talr", floor=0.3)
    talr.begin_experience(SimpleNamespace(index=0, examples=[_example(1), _example(2)]))
    assert talr.diagnostics() == {"scale": pytest.approx(2.5)}  # the median of 2 and 3
    (batch,) = talr.context.batches([_example(1, 3), _example(1)], 2)
    logits = talr.context.model(batch["input_ids"], None).logits
    weights = talr.token_weights(batch, logits)
    # losses 2 and 4, and 2: e^-0.8, e^-1.6 = 0.2 below the floor, e^-0.8
    assert weights[0].tolist() == pytest.approx([0.4493, 0.3], abs=1e-4)
    assert weights[1, 0].item() == pytest.approx(0.4493, abs=1e-4)
    idle = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    assert talr.token_weights(idle, logits).shape == (2, 2)  # nothing to learn there
    assert talr.penalty(talr.context.model) is None
    assert talr.diagnostics() == {"scale": pytest.approx(2.5)}  # the median of 3 and 2


@pytest.mark.parametrize(("name", "options"), [("flow", {}), ("talr", {}), ("talr", {"floor": 1})])
def test_less_is_learned_than_by_full_fine_tuning(name, options):
    """The weights are below 1; with a floor of 1 they are all 1 and nothing is changed."""
    ways = []
    for strategy in (create_strategy("full_sft", {}), create_strategy(name, options)):
        with own_numerics():
            loop = toy_loop(strategy, training={"optimizer": "sgd", "max_gradient_norm": 0.0})
            before = [p.detach().clone() for p in loop.model.parameters()]
            loop.train(toy_tasks()[0])
            moved = zip(before, loop.model.parameters(), strict=True)
            ways.append(float(sum((a - b).detach().square().sum() for a, b in moved)) ** 0.5)
    if options:
        assert ways[1] == pytest.approx(ways[0], rel=1e-4)
    else:
        assert 0.1 * ways[0] < ways[1] < 0.6 * ways[0]


@pytest.mark.parametrize("name", ["flow", "talr"])
def test_an_interruption_changes_nothing(name):
    assert resuming_problem(lambda: create_strategy(name, {}), points=(0, 4)) is None


def test_a_floor_out_of_range_is_refused():
    with pytest.raises(UserError, match=r"floor=1\.5 must lie"):
        create_strategy("talr", {"floor": 1.5})

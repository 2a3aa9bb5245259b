"""EWC against hand-computed values and avalanche's plugin."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from epi_bench import Experience
from epi_bench.errors import UserError
from epi_bench.strategy.strategy import create_strategy


class _Context:
    """A linear model ``y = w x`` with loss ``(w x - y)^2`` a sample."""

    device = torch.device("cpu")

    def __init__(self, weight: float) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            self.model.weight.fill_(weight)

    def generator(self, purpose):
        import random

        return random.Random(purpose)

    def batches(self, examples, batch_size):
        for start in range(0, len(examples), batch_size):
            yield torch.tensor(examples[start : start + batch_size])

    def loss(self, model, batch):
        return (model(batch[:, :1]) - batch[:, 1:]).square().mean()


def _experience(index, samples):
    return Experience(index, f"task {index}", (f"task {index}",), samples, 1)


def test_penalty_by_hand():
    ewc = create_strategy("ewc", {"strength": 4.0, "fisher_samples": 2})
    ewc.context = _Context(weight=1.0)
    assert ewc.penalty(ewc.context.model) is None
    # gradients at w = 1: 2 (w x - y) x = 2 (1 - 0) 1 = 2 and 2 (2 - 1) 2 = 4; Fisher (4 + 16) / 2
    ewc.end_experience(_experience(0, [[1.0, 0.0], [2.0, 1.0]]))
    with torch.no_grad():
        ewc.context.model.weight.fill_(1.5)
    assert ewc.penalty(ewc.context.model).item() == pytest.approx(4 / 2 * 10 * 0.5**2)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        # first Fisher 4 at w = 1, second: gradient 2 (2 - 0) = 4, Fisher 16 at w = 2; now w = 3
        ("separate", 0.5 * (4 * (3 - 1) ** 2 + 16 * (3 - 2) ** 2)),
        ("online", 0.5 * (0.5 * 4 + 16) * (3 - 2) ** 2),
    ],
)
def test_two_experiences_by_hand(mode, expected):
    ewc = create_strategy("ewc", {"strength": 1.0, "mode": mode, "decay": 0.5})
    ewc.context = _Context(weight=1.0)
    for index, weight in enumerate((1.0, 2.0)):
        with torch.no_grad():
            ewc.context.model.weight.fill_(weight)
        ewc.end_experience(_experience(index, [[1.0, 0.0]]))
    with torch.no_grad():
        ewc.context.model.weight.fill_(3.0)
    assert ewc.penalty(ewc.context.model).item() == pytest.approx(expected)
    again = create_strategy("ewc", {"strength": 1.0, "mode": mode, "decay": 0.5})
    again.context = ewc.context
    again.load_state_dict(ewc.state_dict())
    assert again.penalty(ewc.context.model).item() == pytest.approx(expected)


@pytest.mark.slow
def test_agrees_with_avalanche_at_batch_size_one():
    """avalanche squares the gradient of a batch's mean loss and has no factor 1/2."""
    plugins = pytest.importorskip("avalanche.training.plugins")
    torch.manual_seed(0)
    features, targets = torch.randn(12, 3), torch.randint(0, 4, (12,))
    model = nn.Linear(3, 4)
    peer = plugins.EWCPlugin(ewc_lambda=5.0, mode="separate")
    samples = torch.utils.data.TensorDataset(features, targets, torch.zeros(12))
    importances = peer.compute_importances(
        model,
        nn.CrossEntropyLoss(),
        torch.optim.SGD(model.parameters(), 0.1),
        samples,
        torch.device("cpu"),
        1,
        0,
    )
    ewc = create_strategy("ewc", {"strength": 10.0, "mode": "separate", "fisher_samples": 12})
    ewc.context = SimpleNamespace(
        model=model,
        generator=lambda purpose: SimpleNamespace(sample=lambda items, count: items),
        batches=lambda items, batch_size: iter(items),
        loss=lambda m, item: nn.functional.cross_entropy(m(item[0][None]), item[1][None]),
    )
    ewc.end_experience(_experience(0, list(zip(features, targets, strict=True))))
    anchor = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter)
    theirs = 5.0 * sum(
        (importances[name].data * (parameter - anchor[name]).square()).sum()
        for name, parameter in model.named_parameters()
    )
    assert ewc.penalty(model).item() == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize(
    "options", [{"strength": -1}, {"decay": 1.5}, {"fisher_samples": 0}], ids=str
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        create_strategy("ewc", options)

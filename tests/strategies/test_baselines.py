"""Smaller steps, averages of weights, weights that are given back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from epi_bench.errors import UserError
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing.toys import own_numerics, toy_loop, toy_model, toy_tasks


class Blocks(nn.Module):
    """One block with one matrix."""

    def __init__(self, weight):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(len(weight), 1, bias=False)])
        self.set(weight)

    def set(self, weight):
        with torch.no_grad():
            self.layers[0].weight.copy_(torch.tensor([weight]))

    def values(self):
        return pytest.approx(self.layers[0].weight[0].tolist())


def test_wise_ft_by_hand():
    model = Blocks([0.0, 2.0])
    strategy = create_strategy("wise_ft", {"alpha": 0.25})
    strategy.prepare_model(model)
    model.set([1.0, 0.0])
    with strategy.as_finished(model):
        assert model.values() == [0.25, 1.5]
    assert model.values() == [1.0, 0.0]
    strategy.finalize_model(model)
    assert model.values() == [0.25, 1.5]


def test_wise_ft_averages_each_experience_with_its_beginning():
    model = Blocks([0.0, 2.0])
    strategy = create_strategy("wise_ft", {"alpha": 0.5, "scope": "each"})
    strategy.context = SimpleNamespace(model=model)
    strategy.prepare_model(model)
    model.set([1.0, 0.0])
    strategy.end_experience(None)
    assert model.values() == [0.5, 1.0]
    model.set([1.5, 1.0])
    strategy.end_experience(None)
    assert model.values() == [1.0, 1.0]
    strategy.finalize_model(model)
    assert model.values() == [1.0, 1.0]


def _trained(name, **options):
    with own_numerics():
        strategy = create_strategy(name, options)
        loop = toy_loop(strategy)
        for experience in toy_tasks():
            loop.train(experience)
        model = strategy.finalize_model(loop.model)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("wise_ft", {"alpha": 1.0}),
        ("wise_ft", {"alpha": 1.0, "scope": "each"}),
        ("ema", {"decay": 0.0}),
        ("ema", {"decay": 0.0, "start": "base"}),
        ("restore_most_changed", {"share": 0.0}),
        ("low_learning_rate", {"divisor": 1.0}),
        ("hft", {"share": 1.0}),
        ("mofo", {"share": 1.0}),
        ("migu", {"threshold": 0.0}),
        ("fggm", {"share": 1.0}),
        ("si", {"strength": 0.0}),
    ],
)
def test_is_full_fine_tuning_at_the_end_of_its_range(name, options):
    full = _trained("full_sft")
    for key, weight in _trained(name, **options).items():
        assert torch.equal(weight, full[key]), key


@pytest.mark.parametrize(
    ("name", "options"),
    [("wise_ft", {"alpha": 0.0}), ("wise_ft", {"alpha": 0.0, "scope": "each"})],
)
def test_is_the_base_model_at_the_other_end(name, options):
    base = dict(toy_model().named_parameters())
    for key, weight in _trained(name, **options).items():
        assert torch.equal(weight, base[key]), key


def _average(start, decay, weights):
    model = Blocks(weights[0])
    strategy = create_strategy("ema", {"decay": decay, "start": start})
    strategy.prepare_model(model)
    for weight in weights[1:]:
        model.set(weight)
        strategy.parameters_updated(SimpleNamespace(model=model))
    strategy.finalize_model(model)
    return model.values()


def test_ema_by_hand():
    # weights (1/2 * 1/2, 1/2) of two steps, divided by their sum of 3/4
    assert _average("first_step", 0.5, [[100.0], [4.0], [8.0]]) == [(4 * 0.25 + 8 * 0.5) / 0.75]
    assert _average("base", 0.5, [[100.0], [4.0], [8.0]]) == [100 * 0.25 + 4 * 0.25 + 8 * 0.5]


def test_ema_is_that_of_torch():
    weights = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).tolist()
    model = Blocks(weights[0])
    peer = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    peer.update_parameters(model)  # the first call copies
    for weight in weights[1:]:
        model.set(weight)
        peer.update_parameters(model)
    assert peer.module.layers[0].weight[0].tolist() == _average("base", 0.9, weights)


def test_restore_most_changed_by_hand():
    model = Blocks([1.0, 0.001, 2.0])
    strategy = create_strategy("restore_most_changed", {"share": 0.34})
    strategy.prepare_model(model)
    model.set([1.5, 0.002, 2.2])  # relative changes 0.5, 1.0, 0.1
    strategy.finalize_model(model)
    assert model.values() == [1.5, 0.001, 2.2]


def test_restore_most_changed_in_absolute_terms():
    model = Blocks([1.0, 0.001, 2.0])
    strategy = create_strategy("restore_most_changed", {"share": 0.34, "measure": "absolute"})
    strategy.prepare_model(model)
    model.set([1.5, 0.002, 2.2])
    strategy.finalize_model(model)
    assert model.values() == [1.0, 0.002, 2.2]


def test_restore_most_changed_leaves_embeddings_and_vectors_alone():
    base = dict(toy_model().named_parameters())
    finished = _trained("restore_most_changed", share=1.0)
    for name, weight in finished.items():
        is_given_back = ".layers." in name and weight.dim() >= 2
        assert torch.equal(weight, base[name]) == is_given_back, name


def test_a_lower_learning_rate_is_the_same_as_one_in_the_settings():
    with own_numerics():
        lower = toy_loop(create_strategy("low_learning_rate", {"divisor": 8.0}))
        plain = toy_loop(create_strategy("full_sft", {}), training={"learning_rate": 3e-3 / 8})
        for loop in (lower, plain):
            loop.train(toy_tasks()[0])
    for one, other in zip(lower.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["wise_ft", "ema", "restore_most_changed"])
def test_scoring_the_finished_model_leaves_the_trained_one(name, dtype):
    with own_numerics():
        strategy = create_strategy(name, {})
        loop = toy_loop(strategy, model=toy_model(dtype=dtype))
        loop.train(toy_tasks()[0])
        before = [parameter.clone() for parameter in loop.model.parameters()]
        with loop.precision.as_saved(loop.model), strategy.as_finished(loop.model) as model:
            assert {str(p.dtype) for p in model.parameters()} == {f"torch.{dtype}"}
            changed = [
                not torch.equal(a.to(b.dtype), b)
                for a, b in zip(before, model.parameters(), strict=True)
            ]
        assert any(changed)
        for parameter, kept in zip(loop.model.parameters(), before, strict=True):
            assert torch.equal(parameter, kept)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("wise_ft", {"alpha": 1.5}),
        ("ema", {"decay": 1.0}),
        ("restore_most_changed", {"share": -0.1}),
        ("low_learning_rate", {"divisor": 0.5}),
        ("low_learning_rate", {"divisor": float("nan")}),
        ("freeze_bottom", {"share": 1.0}),
        ("hft", {"share": 0.0}),
        ("mofo", {"share": 0.0}),
        ("sift", {"share": 2.0}),
        ("migu", {"threshold": 1.0}),
        ("fggm", {"share": 0.0}),
        ("fggm", {"fisher_samples": 0}),
        ("si", {"strength": -1.0}),
        ("si", {"damping": 0.0}),
    ],
)
def test_options_out_of_range_are_refused(name, options):
    with pytest.raises(UserError, match=f"{name}: {next(iter(options))}="):
        create_strategy(name, options)

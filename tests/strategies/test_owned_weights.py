"""Strategies that give each experience weights of its own: lota and packnet."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from epi_bench import Experience
from epi_bench.errors import TrainingFailedError, UserError
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.strategy.layers import block_matrices
from epi_bench.strategy.owned_weights import OwnedWeights
from epi_bench.strategy.probing import probed_weights
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing.toys import own_numerics, toy_loop, toy_model, toy_tasks


def _weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _train(name, training=None, **options):
    """Weights before, and after each experience, and the strategy."""
    with own_numerics():
        strategy = create_strategy(name, options)
        loop = toy_loop(strategy, training={"weight_decay": 0.1, **(training or {})})
        points = [_weights(loop.model)]
        for experience in toy_tasks():
            loop.train(experience)
            points.append(_weights(loop.model))
    return points, strategy, loop


def test_weights_are_given_once():
    owned = OwnedWeights({"a": nn.Parameter(torch.zeros(4))})
    owned.give({"a": torch.tensor([True, True, False, False])}, 1)
    owned.give({"a": torch.tensor([False, True, True, False])}, 2)
    assert owned.owners["a"].tolist() == [1, 1, 2, 0]
    assert owned.free_share == 0.25
    assert owned.of(2)["a"].tolist() == [False, False, True, False]
    with pytest.raises(TrainingFailedError, match="at most 255"):
        owned.give({"a": torch.ones(4, dtype=torch.bool)}, 256)


def test_a_probe_trains_as_full_fine_tuning_and_leaves_the_model_alone():
    """A probe of the same examples and steps ends where a training with its batches would."""
    experience = toy_tasks()[0]
    with own_numerics():
        loop = toy_loop(create_strategy("full_sft", {}))
        before = _weights(loop.model)
        purpose = "experience 0"  # so that its batches are those of the experience
        probed = probed_weights(loop.context, experience.examples, experience.steps, purpose)
        assert loop.cost.extra_tokens > 0
        assert loop.cost.tokens == 0
        for name, weight in _weights(loop.model).items():
            assert torch.equal(weight, before[name])
        loop.train(experience)
    for name, weight in _weights(loop.model).items():
        assert torch.equal(weight, probed[name]), name


# lota


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_lota_changes_weights_that_no_other_experience_changes(sparsity):
    (base, first, second), _, _ = _train("lota", sparsity=sparsity)
    blocks = block_matrices(dict(toy_model().named_parameters()))
    size = sum(base[name].numel() for name in blocks)
    moved = [
        {name: before[name] != after[name] for name in base}
        for before, after in ((base, first), (first, second))
    ]
    for masks in moved:
        assert 0 < sum(int(mask.sum()) for mask in masks.values()) <= round((1 - sparsity) * size)
        assert not any(mask.any() for name, mask in masks.items() if name not in blocks)
    assert not any((moved[0][name] & moved[1][name]).any() for name in base)


def test_lota_trains_what_the_trial_changed_most():
    with own_numerics():
        loop = toy_loop(create_strategy("lota", {"sparsity": 0.9}))
        experience = toy_tasks()[0]
        base = _weights(loop.model)
        purpose = "trial of experience 0"
        probed = probed_weights(loop.context, experience.examples, experience.steps, purpose)
        loop.train(experience)
        after = _weights(loop.model)
    blocks = block_matrices(dict(loop.model.named_parameters()))
    changes = torch.cat([(probed[n] - base[n]).abs().flatten() for n in blocks])
    moved = torch.cat([(after[n] != base[n]).flatten() for n in blocks])
    count = round(0.1 * len(changes))
    assert changes[moved].min() >= changes.topk(count).values.min()


def test_lota_warns_where_there_are_not_enough_weights():
    strategy, spec = create_strategy("lota", {"sparsity": 0.7}), TrainingSpec(steps=3)
    assert not strategy.check_run(spec, [3] * 3)
    assert "1.2 times all there are" in strategy.check_run(spec, [3] * 4)[0]


# packnet


class TenWeights(nn.Module):
    """One block with one matrix of ten weights, a vector beside it."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(10, 1)])
        nn.init.zeros_(self.layers[0].weight)


def test_packnet_by_hand():
    """Of ten weights 5 are kept, then 3 of the 5, then 1 of the 2."""
    model = TenWeights()
    strategy = create_strategy("packnet", {"prune": 0.5})
    strategy.context = SimpleNamespace(model=model, seed=0, optimizer=None)
    strategy.prepare_model(model)
    values = torch.arange(1.0, 11.0)
    counts = []
    for index in range(3):
        experience = Experience(index, "name", ("name",), [], 0)
        strategy.begin_experience(experience)
        with torch.no_grad():
            model.layers[0].weight.copy_(values * (index + 1))
            model.layers[0].bias.fill_(index + 1)
        strategy.isolation.restore()
        strategy.end_experience(experience)
        owners = strategy._owned.owners["layers.0.weight"][0]
        counts.append([int((owners == owner).sum()) for owner in range(4)])
    assert counts == [[5, 5, 0, 0], [2, 5, 3, 0], [1, 5, 3, 1]]
    # the five largest from the first experience, three of the others from the second; 1 is free
    assert model.layers[0].weight[0].tolist() == [0, 6, 6, 8, 10, 6, 7, 8, 9, 10]
    assert model.layers[0].bias.item() == 1  # of the first experience


def test_what_packnet_owns_never_moves_and_what_it_gives_back_is_the_base():
    (base, first, second), strategy, _ = _train("packnet", prune=0.5)
    for name, owners in strategy._owned.owners.items():
        assert torch.equal(first[name][owners == 1], second[name][owners == 1])
        assert torch.equal(second[name][owners == 0], base[name][owners == 0])
        assert torch.equal(first[name][owners != 1], base[name][owners != 1])
    blocks = block_matrices(base | {n: nn.Parameter(t) for n, t in base.items()})
    for name, owners in strategy._owned.owners.items():
        counts = [int((owners == owner).sum()) for owner in (0, 1, 2)]
        size = owners.numel()
        assert counts == ([size // 4, size // 2, size // 4] if name in blocks else [0, size, 0])
    assert strategy.diagnostics()["free_share"] == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(("retrain", "chosen_at"), [(0.0, 6), (0.5, 4), (1.0, 3)])
def test_packnet_trains_its_own_weights_a_second_time(retrain, chosen_at):
    strategy = create_strategy("packnet", {"retrain": retrain})
    after = []
    with own_numerics():
        loop = toy_loop(strategy)
        loop.train(toy_tasks(6)[0], at_rest=lambda: after.append(_weights(loop.model)))
    is_free = strategy._owned.free()
    base = _weights(toy_model())
    given_back = [all(torch.equal(w[n][f], base[n][f]) for n, f in is_free.items()) for w in after]
    assert given_back == [number >= chosen_at for number in range(1, 7)]
    if retrain:
        name = "model.layers.0.self_attn.q_proj.weight"
        owned = ~is_free[name]
        assert not torch.equal(after[-1][name][owned], after[chosen_at - 1][name][owned])


def test_packnet_warns_where_the_last_experiences_have_next_to_nothing():
    strategy, spec = create_strategy("packnet", {"prune": 0.5}), TrainingSpec(steps=3)
    assert not strategy.check_run(spec, [3] * 7)
    assert "leaves the last of 8 experiences 0.008" in strategy.check_run(spec, [3] * 8)[0]


# both


@pytest.mark.parametrize("name", ["lota", "packnet"])
def test_a_model_without_blocks_is_refused(name):
    with pytest.raises(UserError, match=f"{name} finds no numbered transformer blocks"):
        create_strategy(name, {}).check_model(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lota", {"sparsity": 1.0}), ("lota", {"probe": 0.0}), ("packnet", {"prune": 0.0}),
        ("packnet", {"retrain": -1.0}), ("packnet", {"retrain": float("inf")}),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(name, options):
    with pytest.raises(UserError, match=f"{name}: {next(iter(options))}="):
        create_strategy(name, options)

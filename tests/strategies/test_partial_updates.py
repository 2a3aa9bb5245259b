"""Strategies that train a part of the weights: hft, freeze_bottom, mofo, sift, migu, fggm."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from epi_bench.errors import UserError
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.strategies.hft import draw_trained
from epi_bench.strategy.partial_step import PartialStep
from epi_bench.strategy.scores import top_share
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing.toys import own_numerics, toy_loop, toy_model, toy_tasks


def _train(name, training=None, tasks=2, model=None, **options):
    """Weights before, after each experience, and the strategy."""
    with own_numerics():
        strategy = create_strategy(name, options)
        loop = toy_loop(strategy, training=training, model=model)
        points = [_weights(loop.model)]
        for experience in toy_tasks()[:tasks]:
            loop.train(experience)
            points.append(_weights(loop.model))
    return points, strategy


def _weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_part_of_a_step_is_undone_bit_for_bit():
    weight = nn.Parameter(torch.tensor([[1.0, float("nan")], [-0.0, 4.0]]))
    step = PartialStep({"weight": weight})
    step.take()
    with torch.no_grad():
        weight += 1
    step.undo({"weight": torch.tensor([[True], [False]])})
    assert weight[0, 0] == 2
    assert torch.signbit(weight[1, 0])
    assert weight[1, 1] == 4


def test_top_share_over_tensors_with_ties_and_zeros():
    scores = {"a": torch.tensor([[2.0, 0.0], [2.0, 1.0]]), "b": torch.tensor([2.0, 0.0])}
    found = {name: mask.tolist() for name, mask in top_share(scores, 1 / 3).items()}
    assert found == {"a": [[True, False], [True, False]], "b": [False, False]}
    found = {name: mask.tolist() for name, mask in top_share(scores, 1.0).items()}
    assert found == {"a": [[True, False], [True, True]], "b": [True, False]}


# hft


def test_half_of_each_category_is_drawn():
    names = {}
    for block in range(2):
        for matrix in ("q", "k", "v", "o"):
            names[f"layers.{block}.self_attn.{matrix}_proj.weight"] = 2
        for matrix in ("gate", "up", "down"):
            names[f"layers.{block}.mlp.{matrix}_proj.weight"] = 2
        for norm in ("input", "post_attention"):
            names[f"layers.{block}.{norm}_layernorm.weight"] = 1
    for seed in range(20):
        drawn = draw_trained(names, 0.5, random.Random(seed))
        for block in range(2):
            mine = [name for name in drawn if f"layers.{block}." in name]
            assert sum("attn" in name and "layernorm" not in name for name in mine) == 2
            assert sum("layernorm" in name for name in mine) == 1
            assert sum("mlp" in name for name in mine) in (1, 2)
        assert sum("mlp" in name for name in drawn) == 3  # exactly half of six


def test_hft_draws_again_for_each_experience_and_moves_nothing_else():
    (base, first, second), _ = _train("hft", training={"weight_decay": 0.1})
    moved = [
        {name for name in base if not torch.equal(before[name], after[name])}
        for before, after in ((base, first), (first, second))
    ]
    assert moved[0] != moved[1]
    for names in moved:
        assert "model.embed_tokens.weight" in names
        assert sum("self_attn" in name for name in names) == 4  # of eight
        assert sum("mlp" in name for name in names) == 3  # of six


def test_hft_needs_an_optimizer_for_each_experience():
    strategy = create_strategy("hft", {})
    with pytest.raises(UserError, match="fresh_optimizer"):
        strategy.check_run(TrainingSpec(steps=3, fresh_optimizer=False), [3, 3])


# freeze_bottom


def test_the_bottom_stays_as_it_was():
    (base, after), _ = _train(
        "freeze_bottom", {"weight_decay": 0.1}, tasks=1, model=toy_model(tied=False), share=0.5
    )
    for name, weight in after.items():
        is_frozen = name.startswith(("model.embed_tokens", "model.layers.0."))
        assert torch.equal(weight, base[name]) == is_frozen, name


def test_a_tied_head_is_frozen_with_the_embeddings():
    model = toy_model()
    create_strategy("freeze_bottom", {"share": 0.5}).prepare_model(model)
    assert not model.get_output_embeddings().weight.requires_grad
    create_strategy("freeze_bottom", {"share": 0.5, "embeddings": False}).prepare_model(
        other := toy_model()
    )
    assert other.get_output_embeddings().weight.requires_grad


def test_the_first_experience_may_be_trained_in_full():
    (base, first, second), _ = _train("freeze_bottom", share=0.5, first_experience=False)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(base[name], first[name])
    assert torch.equal(first[name], second[name])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_checkpointing_over_a_frozen_bottom(checkpointing):
    (_, after), _ = _train(
        "freeze_bottom", {"gradient_checkpointing": checkpointing}, tasks=1, share=0.5
    )
    (_, plain), _ = _train("freeze_bottom", tasks=1, share=0.5)
    for name, weight in after.items():
        assert torch.equal(weight, plain[name])


def test_ten_blocks_are_not_the_first_one():
    from epi_bench import block_number

    assert block_number("model.layers.10.mlp.weight") == 10
    assert block_number("model.layers.1.experts.12.weight") == 1
    assert block_number("lm_head.weight") is None


# mofo


class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 4))


def test_mofo_by_hand():
    model, strategy = Weight(), create_strategy("mofo", {"share": 0.5})
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    model.weight.grad = torch.tensor([[3.0, -5.0, 1.0, 2.0]])  # the first momentum
    step = SimpleNamespace(model=model, optimizer=optimizer)
    strategy.gradients_ready(step)
    optimizer.step()
    strategy.parameters_updated(step)
    assert model.weight.tolist() == [[-3.0, 5.0, 0.0, 0.0]]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_mofo_moves_its_share_of_each_matrix(optimizer):
    training = {"optimizer": optimizer, "weight_decay": 0.1}
    with own_numerics():
        loop = toy_loop(create_strategy("mofo", {"share": 0.25}), training=training)
        before, moved = _weights(loop.model), []

        def count(step, rate):
            after = _weights(step.model)
            moved.append({n: int((after[n] != before[n]).sum()) for n in after})
            before.update(after)

        loop.train(toy_tasks()[0], on_step=count)
    sizes = {name: weight.numel() for name, weight in before.items()}
    for counts in moved:
        for name, number in counts.items():
            if "proj" in name:
                assert number <= round(0.25 * sizes[name])
                assert number > 0.2 * sizes[name]
            if "norm" in name and optimizer == "adamw":
                assert number == sizes[name]


def test_mofo_refuses_an_optimizer_without_momentum():
    strategy = create_strategy("mofo", {})
    with pytest.raises(UserError, match="adafactor keeps none"):
        strategy.check_run(TrainingSpec(steps=3, optimizer="adafactor"), [3])


# sift


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adafactor"])
def test_sift_changes_its_share_of_the_blocks_matrices_and_nothing_else(optimizer):
    points, _ = _train("sift", {"optimizer": optimizer, "weight_decay": 0.1}, share=0.1)
    base, end = points[0], points[-1]
    for name, weight in end.items():
        changed = int((weight != base[name]).sum())
        if "proj" in name:
            assert 0 < changed <= round(0.1 * weight.numel()), name
        else:
            assert changed == 0, name


def test_sift_takes_the_largest_gradients_of_the_first_step():
    with own_numerics():
        strategy = create_strategy("sift", {"share": 0.1})
        loop = toy_loop(strategy)
        gradients, taken = {}, strategy.gradients_ready

        def look(step):
            if not gradients:
                gradients.update({n: p.grad.abs() for n, p in step.model.named_parameters()})
            taken(step)

        strategy.gradients_ready = look
        base = _weights(loop.model)
        loop.train(toy_tasks()[0])
    name = "model.layers.0.mlp.up_proj.weight"
    moved = _weights(loop.model)[name] != base[name]
    assert gradients[name][moved].min() >= gradients[name][~moved].max()


# migu


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 2, bias=False)

    def forward(self, x, attention_mask=None):
        return self.linear(x)


def test_migu_by_hand():
    model, strategy = Linear(), create_strategy("migu", {"threshold": 0.5})
    with torch.no_grad():
        model.linear.weight.copy_(torch.tensor([[1.0], [-2.0]]))
    strategy.prepare_model(model)
    strategy.begin_experience(SimpleNamespace(index=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    # outputs (1, -2), (1, -2) and padding: sums 2 and 4, the median is 3
    real = torch.tensor([[1, 1, 0]])
    model(torch.tensor([[[1.0], [1.0], [100.0]]]), attention_mask=real).sum().backward()
    assert strategy._sums["linear"].tolist() == [2.0, 4.0]
    step = SimpleNamespace(model=model, optimizer=optimizer)
    strategy.gradients_ready(step)
    optimizer.step()
    strategy.parameters_updated(step)
    assert model.linear.weight.flatten().tolist() == [1.0, -104.0]


def test_migu_acts_from_the_second_experience_on():
    (_, first, second), _ = _train("migu", threshold=0.7)
    (_, plain, other), _ = _train("full_sft")
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(first[name], plain[name])
    assert not torch.equal(second[name], other[name])


def test_migu_takes_its_hooks_away():
    with own_numerics():
        strategy = create_strategy("migu", {})
        loop = toy_loop(strategy)
        loop.train(toy_tasks()[0])
        model = strategy.finalize_model(loop.model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# fggm


def test_fggm_trains_whole_rows():
    (_, first, second), strategy = _train("fggm", share=0.3, training={"weight_decay": 0.1})
    rows = []
    for name, weight in second.items():
        if weight.dim() >= 2:
            moved = (weight != first[name]).flatten(1)
            rows.append(moved.any(1))
            held = ~strategy.isolation.masks[name].view_as(weight)
            assert torch.equal(held, held[:, :1].expand_as(held)), name
            assert not bool((moved & ~held).any()), name
    share = torch.cat(rows).float().mean()
    assert 0.2 < share <= 0.3


def test_fggm_of_the_past_trains_what_did_not_matter():
    (_, first, second), _strategy = _train("fggm", share=0.3, fisher_of="past")
    moved = {n: (second[n] != first[n]).flatten(1).any(1) for n in first if first[n].dim() >= 2}
    with own_numerics():
        again = create_strategy("fggm", {"share": 0.3, "fisher_of": "past"})
        loop = toy_loop(again)
        loop.train(toy_tasks()[0])
        past = again._past
    trained = torch.cat([past[n].flatten()[rows] for n, rows in moved.items()])
    held = torch.cat([past[n].flatten()[~rows] for n, rows in moved.items()])
    # rows that were free but had no gradient (tokens that never came) do not move either
    assert trained.max() <= held.max()
    assert trained.max() <= held[held > 0].quantile(0.9)

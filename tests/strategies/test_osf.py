"""OSF: what a matrix does along its largest directions stays as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from epi_bench.errors import UserError
from epi_bench.strategy.partial_step import PartialStep
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing.toys import own_numerics, toy_loop, toy_model, toy_tasks

STRONG = {"learning_rate": 1e-2, "weight_decay": 0.5, "max_gradient_norm": 0.0}


def _osf(**options):
    return create_strategy("osf", options)


class _Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2, bias=False)])


def test_by_hand():
    """Of diag(3, 1) the entry 3 is kept, and with it what mixes its direction with the other."""
    model = _Block()
    weight = model.layers[0].weight
    with torch.no_grad():
        weight.copy_(torch.diag(torch.tensor([3.0, 1.0])))
    strategy = _osf(share=0.5)
    strategy.context = type("Context", (), {"model": model, "experience_count": 1})()
    strategy.begin_experience(toy_tasks()[0])
    left = strategy._left["layers.0.weight"].flatten().abs().tolist()
    assert left == pytest.approx([1.0, 0.0])
    step = PartialStep({"layers.0.weight": weight})
    step.take()
    with torch.no_grad():
        weight.add_(10.0)
    step.change(strategy._projected, torch.Generator())
    assert weight.flatten().tolist() == pytest.approx([3.0, 0.0, 0.0, 11.0])
    assert strategy.diagnostics() == {"kept_energy": pytest.approx(0.9)}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adafactor"])
def test_kept_directions_stay_whatever_the_optimizer_does(optimizer):
    with own_numerics():
        loop = toy_loop(_osf(), training={**STRONG, "optimizer": optimizer})
        for experience in toy_tasks():
            start = {n: p.detach().clone() for n, p in loop.model.named_parameters()}
            loop.train(experience)
            for name, weight in loop.model.named_parameters():
                if name not in loop.strategy._left:
                    assert torch.equal(weight, start[name]), name
                    continue
                left, right = loop.strategy._left[name], loop.strategy._right[name]
                assert not torch.equal(weight, start[name])
                moved = weight - start[name]
                assert torch.allclose(moved @ right, torch.zeros(()), atol=1e-5), name
                assert torch.allclose(left.mT @ moved, torch.zeros(()), atol=1e-5), name


def test_projected_gradients_alone_would_not_do_under_adam():
    """Adam divides entry by entry, which turns a step out of the free subspace."""
    with own_numerics():
        loop = toy_loop(_osf(), training=STRONG)
        loop.strategy.parameters_updated = lambda step: None
        start = {n: p.detach().clone() for n, p in loop.model.named_parameters()}
        loop.train(toy_tasks()[0])
    left = 0.0
    for name, right in loop.strategy._right.items():
        moved = dict(loop.model.named_parameters())[name].detach() - start[name]
        left = max(left, float((moved @ right).norm() / moved.norm()))
    assert left > 0.1


def test_a_growing_share_ends_with_little_to_train():
    with own_numerics():
        loop = toy_loop(_osf(share=0.0, schedule="growing", rest="trained"))
        kept = []
        for experience in toy_tasks():
            loop.train(experience)
            ranks = {t.shape[-1] for t in loop.strategy._left.values()}
            kept.append((ranks, loop.strategy.diagnostics()["kept_energy"]))
    assert kept[0] == (set(), 0.0)
    assert kept[1][0] == {8}  # half of 16
    assert 0.5 < kept[1][1] < 1


@pytest.mark.parametrize(("rest", "moves"), [("frozen", False), ("trained", True)])
def test_the_rest_is_frozen_or_trained(rest, moves):
    base = dict(toy_model().named_parameters())
    with own_numerics():
        loop = toy_loop(_osf(rest=rest))
        loop.train(toy_tasks()[0])
    trained = dict(loop.model.named_parameters())
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(trained[name], base[name]) != moves


def test_bfloat16_weights_keep_the_directions_on_average():
    with own_numerics():
        loop = toy_loop(
            _osf(), model=toy_model(dtype="bfloat16"), training={"master_weights": "none"}
        )
        start = {n: p.detach().float() for n, p in loop.model.named_parameters()}
        loop.train(toy_tasks()[0])
    for name, right in loop.strategy._right.items():
        moved = dict(loop.model.named_parameters())[name].detach().float() - start[name]
        assert float((moved @ right).norm()) < 0.9 * float(moved.norm())


def test_settings_that_leave_nothing_of_it_are_told():
    told = _osf(share=0.0, rest="trained").check_run(None, [])
    assert told == ["osf with share=0 and rest=trained trains as full_sft does"]
    assert _osf().check_run(None, []) == ()
    with pytest.raises(UserError, match=r"osf: share=1.0 must lie in \[0, 1\)"):
        _osf(share=1.0)
    with pytest.raises(UserError, match="osf finds no matrices of numbered"):
        _osf().check_model(nn.Linear(2, 2))

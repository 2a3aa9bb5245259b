"""``protect``: one line makes any training loop leave protected weights bit-identical."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

import epi_bench
from epi_bench import (
    Isolation,
    Protection,
    UserError,
    protect,
)
from epi_bench.strategy.strategy import STRATEGIES


class SignedStep(torch.optim.Optimizer):
    """A third-party optimizer: sign descent with state and decay, that does not know of EPI."""

    def __init__(self, params, lr=0.01, decay=0.1):
        super().__init__(params, {"lr": lr, "decay": decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                momentum.mul_(0.9).add_(parameter.grad)
                parameter.mul_(1 - group["lr"] * group["decay"])
                parameter.sub_(group["lr"] * momentum.sign())


class DecayAfterStep(torch.optim.AdamW):
    """A subclass whose step calls its parent's, so that two nested steps have hooks."""

    def step(self, closure=None):
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(0.99)
        return loss


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.5, foreach=False),
    "adamw_foreach": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.5, foreach=True),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.5, fused=True),
    "adamw_amsgrad": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.5, amsgrad=True),
    "adamw_maximize": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.5, maximize=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.5),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.05),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.5),
    "sgd_nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05, weight_decay=0.5),
    "third_party": SignedStep,
    "nested_steps": lambda p: DecayAfterStep(p, lr=0.05),
}


def _model(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 3)).to(dtype)


def _loss(model, generator):
    inputs = torch.randn(8, 6, generator=generator)
    return (model(inputs) - inputs[:, :3]).square().mean()


def _bits(parameter):
    return parameter.detach().clone().view(torch.int32).view(-1)


def _train(model, optimizer, steps, after=lambda: None, accumulation=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for _ in range(accumulation):
            (_loss(model, generator) / accumulation).backward()
        optimizer.step()
        optimizer.zero_grad()
        after()


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_protected_weights_are_bit_identical_between_refreshes(name, accumulation, witness):
    model = _model()
    optimizer = OPTIMIZERS[name](model.parameters())
    protection = protect(optimizer, model, ratio=0.4, interval=3, warmup=2)
    watch = witness(protection.isolation)
    _train(model, optimizer, 9, watch.check, accumulation)
    assert protection.statistics()["steps"] == 9
    assert protection.refreshes == 3  # after steps 2, 5 and 8
    assert protection.isolation.protected_count == protection.isolation.target_count
    assert watch.checked == 7 * protection.isolation.target_count


def test_lbfgs_counts_once_a_step_and_observes_the_first_evaluation(witness):
    model, generator = _model(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    protection = protect(optimizer, model, ratio=0.4, interval=2, warmup=1, beta=0.0)
    watch, evaluations, first = witness(protection.isolation), [], []

    def closure():
        optimizer.zero_grad()
        loss = _loss(model, generator)
        loss.backward()
        if not evaluations:
            first.append(model[0].weight.grad.square().clone())
        evaluations.append(loss.item())
        return loss

    for step in range(1, 5):
        evaluations.clear()
        optimizer.step(closure=closure) if step % 2 else optimizer.step(closure)
        assert len(evaluations) > 1
        assert torch.equal(protection.isolation.importance.values["0.weight"], first[-1])
        watch.check()
        assert protection.steps == step
    assert protection.refreshes == 2


def test_it_does_what_the_engine_does_by_hand():
    by_hook, by_hand = _model(), _model()
    hooked, bare = (OPTIMIZERS["adamw"](m.parameters()) for m in (by_hook, by_hand))
    protect(hooked, by_hook, ratio=0.3, interval=2, warmup=3, beta=0.9, normalisation="rank")
    engine = Isolation(by_hand.named_parameters(), ratio=0.3, beta=0.9, normalisation="rank")
    _train(by_hook, hooked, 8)
    generator = torch.Generator().manual_seed(1)
    for step in range(1, 9):
        _loss(by_hand, generator).backward()
        engine.observe()
        bare.step()
        engine.restore()
        bare.zero_grad()
        if step in (3, 5, 7):
            engine.refresh()
    for first, second in zip(by_hook.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(first, second)


def test_defaults_are_those_of_the_strategy():
    ours, theirs = inspect.signature(Protection).parameters, STRATEGIES.get("epi")
    for name in ("ratio", "interval", "warmup", "beta", "normalisation"):
        assert ours[name].default == inspect.signature(theirs).parameters[name].default


def test_ratio_zero_trains_as_if_it_were_not_there():
    plain, protected = _model(), _model()
    for model in (plain, protected):
        optimizer = OPTIMIZERS["adamw"](model.parameters())
        if model is protected:
            protection = protect(optimizer, model, ratio=0.0, warmup=1, interval=1)
        _train(model, optimizer, 4)
    for first, second in zip(plain.parameters(), protected.parameters(), strict=True):
        assert torch.equal(first, second)
    assert protection.isolation.protected_count == 0


def test_leaving_the_context_or_removing_lets_weights_move_again():
    model = _model()
    optimizer = OPTIMIZERS["sgd_momentum"](model.parameters())
    with protect(optimizer, model, ratio=0.5, interval=1, warmup=1) as protection:
        _train(model, optimizer, 2)
    assert not protection.active
    before = {name: _bits(p) for name, p in model.named_parameters()}
    _train(model, optimizer, 2)
    assert protection.steps == 2
    assert all(bool((_bits(p) != before[n]).all()) for n, p in model.named_parameters())
    protection.remove()  # once more does no harm
    protect(optimizer, model).remove()


@pytest.mark.parametrize("importance", ["ema", "ema_bf16", "factored", "optimizer"])
def test_state_goes_through_safetensors_and_resumes_exactly(importance):
    whole, parts = _model(), _model()
    settings = {"ratio": 0.3, "interval": 3, "warmup": 2, "importance": importance}
    optimizer = OPTIMIZERS["adamw"](whole.parameters())
    expected = protect(optimizer, whole, **settings)
    _train(whole, optimizer, 4)
    _train(whole, optimizer, 5, seed=2)

    optimizer = OPTIMIZERS["adamw"](parts.parameters())
    first = protect(optimizer, parts, **settings)
    _train(parts, optimizer, 4)
    saved = save({key: tensor.clone() for key, tensor in first.state_dict().items()})
    fresh = _model()
    fresh.load_state_dict(parts.state_dict())
    resumed_optimizer = OPTIMIZERS["adamw"](fresh.parameters())
    resumed_optimizer.load_state_dict(optimizer.state_dict())
    resumed = protect(resumed_optimizer, fresh, **settings)
    resumed.load_state_dict(load(saved))
    _train(fresh, resumed_optimizer, 5, seed=2)
    for one, other in zip(whole.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, other)
    assert resumed.statistics() == expected.statistics()


def test_loading_the_optimizers_state_keeps_the_protection(witness):
    model = _model()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    protection = protect(optimizer, model, ratio=0.4, interval=2, warmup=1)
    _train(model, optimizer, 2)
    optimizer.load_state_dict(optimizer.state_dict())
    _train(model, optimizer, 2, witness(protection.isolation).check)
    assert protection.steps == 4


def test_a_learning_rate_schedule_and_clipping_change_nothing(witness):
    model, generator = _model(), torch.Generator().manual_seed(0)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    protection = protect(optimizer, model, ratio=0.4, interval=2, warmup=1)
    watch = witness(protection.isolation)
    for _ in range(6):
        _loss(model, generator).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        watch.check()
    assert protection.steps == 6


@pytest.mark.parametrize("unscale_before", [False, True])
@pytest.mark.parametrize("name", ["adamw", "adamw_fused"])
def test_steps_that_a_gradient_scaler_skips_do_not_count(name, unscale_before):
    scaled, plain = _model(), _model()
    optimizer = OPTIMIZERS[name](scaled.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    settings = {"ratio": 0.4, "interval": 2, "warmup": 1}
    protection = protect(optimizer, scaled, **settings)
    generator = torch.Generator().manual_seed(1)
    for step in range(6):
        loss = _loss(scaled, generator) if step != 2 else scaled[0].weight.sum() * math.inf
        scaler.scale(loss).backward()
        if unscale_before:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert not hasattr(optimizer, "found_inf")
    assert protection.steps == 5

    optimizer = OPTIMIZERS[name](plain.parameters())
    expected = protect(optimizer, plain, **settings)
    _train(plain, optimizer, 5)
    for one, other in zip(scaled.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    for key, average in expected.isolation.importance.values.items():
        assert torch.equal(protection.isolation.importance.values[key], average)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_an_optimizer_wrapped_by_accelerate(accumulation, witness):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    model = _model()
    model, optimizer = accelerator.prepare(model, OPTIMIZERS["adamw"](model.parameters()))
    protection = protect(optimizer, model, ratio=0.4, interval=2, warmup=1)
    watch, generator = witness(protection.isolation), torch.Generator().manual_seed(0)
    for _ in range(4 * accumulation):
        with accelerator.accumulate(model):
            accelerator.backward(_loss(model, generator))
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            watch.check()
    assert protection.steps == 4
    assert list(protection.isolation.parameters) == [
        name for name, _ in _model().named_parameters()
    ]


def test_only_what_the_optimizer_trains_counts_and_tied_weights_count_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 4)
            self.body = nn.Linear(4, 4)
            self.norm = nn.LayerNorm(4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embedding.weight

    model = Tied()
    model.body.bias.requires_grad_(False)
    groups = [
        {"params": [model.embedding.weight], "lr": 0.1},
        {"params": [model.body.weight, model.body.bias], "weight_decay": 0.0},
    ]
    protection = protect(torch.optim.AdamW(groups), model, ratio=0.5)
    assert list(protection.isolation.parameters) == ["embedding.weight", "body.weight"]
    assert protection.isolation.target_count == (20 + 16) // 2


def test_compiled_and_bare_models_have_the_same_names():
    model = _model()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    compiled = nn.Module()
    compiled._orig_mod = model  # what torch.compile returns has its module under this name
    protection = Protection(optimizer, compiled)
    assert list(protection.isolation.parameters) == [name for name, _ in model.named_parameters()]
    assert protection.trains(optimizer, model)


def test_further_options_reach_the_engine():
    model = _model()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    assert protect(optimizer, model, largest=False).isolation.largest is False
    assert epi_bench.protect is protect


def test_a_step_that_fails_does_not_end_the_protection(witness):
    model = _model()
    optimizer = SignedStep(model.parameters())
    protection = protect(optimizer, model, ratio=0.4, interval=1, warmup=1)
    _train(model, optimizer, 2)
    watch = witness(protection.isolation)
    optimizer.param_groups[0]["lr"] = None
    with pytest.raises(TypeError):
        _train(model, optimizer, 1)
    optimizer.param_groups[0]["lr"] = 0.01
    _train(model, optimizer, 2, watch.check)
    assert protection.steps == 4


def _lookahead(model):
    class Lookahead(torch.optim.Optimizer):
        def __init__(self, inner):
            self.inner, self.param_groups = inner, inner.param_groups

        def step(self, closure=None):
            return self.inner.step(closure)

    return Lookahead(torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (lambda m: torch.optim.SGD(_model().parameters(), lr=0.1), {}, "none of the model's"),
        (_lookahead, {}, "Lookahead has no step hooks"),
        (lambda m: torch.optim.SGD(m.parameters(), lr=0.1), {"interval": 0}, "interval=0"),
        (lambda m: torch.optim.SGD(m.parameters(), lr=0.1), {"warmup": -1}, "warmup=-1"),
        (lambda m: torch.optim.SGD(m.parameters(), lr=0.1), {"ratio": 1.0}, "ratio=1.0"),
    ],
)
def test_what_cannot_work_is_refused(make, settings, message):
    model = _model()
    with pytest.raises(UserError, match=message):
        protect(make(model), model, **settings)


def test_a_second_protection_of_one_optimizer_is_refused():
    model = _model()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    protect(optimizer, model)
    with pytest.raises(UserError, match="protected already"):
        protect(optimizer, model)


def test_a_state_of_another_model_is_refused():
    model, other = _model(), nn.Sequential(*_model(), nn.Linear(3, 3))
    small = protect(OPTIMIZERS["adamw"](model.parameters()), model)
    large = protect(OPTIMIZERS["adamw"](other.parameters()), other)
    with pytest.raises(UserError, match=r"no parameter '3.weight'"):
        large.load_state_dict(small.state_dict())
    with pytest.raises(UserError, match="counts no steps"):
        small.load_state_dict(small.isolation.state_dict())


@pytest.mark.parametrize("importance", ["ema", "ema_bf16", "factored", "optimizer"])
def test_every_way_of_keeping_importance(importance, witness):
    model = _model()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    settings = {"ratio": 0.4, "interval": 2, "warmup": 1, "importance": importance}
    protection = protect(optimizer, model, **settings)
    watch = witness(protection.isolation)
    _train(model, optimizer, 5, watch.check)
    assert protection.isolation.protected_count == protection.isolation.target_count
    again = Protection(optimizer, model, **settings)
    again.load_state_dict(protection.state_dict())
    assert again.steps == 5
    if importance == "optimizer":
        assert protection.isolation.importance.state_bytes() == 0
        second_moment = optimizer.state[model[0].weight]["exp_avg_sq"]
        assert torch.equal(protection.isolation.importance.values["0.weight"], second_moment)


def test_an_optimizer_without_a_second_moment_cannot_be_read():
    model = _model()
    optimizer = OPTIMIZERS["sgd_momentum"](model.parameters())
    with pytest.raises(UserError, match="SGD does not keep"):
        protect(optimizer, model, importance="optimizer")


def test_adams_moment_of_bfloat16_weights_is_refused_at_once():
    model = _model().bfloat16()
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(UserError, match=r"never shrinks.*float32 weights with autocast"):
        protect(optimizer, model, importance="optimizer")
    protect(optimizer, model, importance="ema_bf16")
    quick = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95))
    protect(quick, model, importance="optimizer")

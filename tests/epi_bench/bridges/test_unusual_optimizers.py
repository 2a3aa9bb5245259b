"""Optimizers that keep a second set of weights, update in two phases, or get sparse gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from epi_bench import UserError, protect


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 3))


def _backward(model, generator):
    inputs = torch.randn(8, 6, generator=generator)
    (model(inputs) - inputs[:, :3]).square().mean().backward()


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free gradient descent (arXiv 2405.15682) as the package ``schedulefree`` has it."""

    def __init__(self, params, lr=0.05, momentum=0.9):
        super().__init__(params, {"lr": lr, "momentum": momentum, "k": 0, "train_mode": True})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            share = 1 / (group["k"] + 1)
            for y in group["params"]:
                z = self.state[y].setdefault("z", y.clone())
                y.lerp_(z, share)
                y.add_(y.grad, alpha=group["lr"] * (group["momentum"] * (1 - share) - 1))
                z.sub_(y.grad, alpha=group["lr"])
            group["k"] += 1

    def eval(self):
        self._swap(lambda momentum: 1 - 1 / momentum, train_mode=False)

    def train(self):
        self._swap(lambda momentum: 1 - momentum, train_mode=True)

    @torch.no_grad()
    def _swap(self, weight, train_mode):
        for group in self.param_groups:
            if group["train_mode"] is not train_mode:
                for parameter in group["params"]:
                    if "z" in self.state[parameter]:
                        parameter.lerp_(self.state[parameter]["z"], weight(group["momentum"]))
                group["train_mode"] = train_mode


def _schedule_free(name):
    if name == "here":
        return ScheduleFree
    return getattr(pytest.importorskip("schedulefree"), name)


@pytest.mark.parametrize("ratio", [0.4, 0.05])
@pytest.mark.parametrize("name", ["here", "AdamWScheduleFree", "SGDScheduleFree"])
def test_schedule_free_weights_are_the_same_in_both_modes(name, ratio):
    model, generator = _model(), torch.Generator().manual_seed(0)
    optimizer = _schedule_free(name)(model.parameters(), lr=0.05)
    optimizer.train()
    protection = protect(optimizer, model, ratio=ratio, interval=100, warmup=4)
    for step in range(1, 13):
        optimizer.zero_grad()
        _backward(model, generator)
        optimizer.step()
        if step == 4:
            held = _protected_values(protection)
            training = [p.detach().clone() for p in model.parameters()]
        if step >= 4:
            for mode in (
                optimizer.eval,
                optimizer.train,
            ):  # weights are evaluated and saved in eval
                mode()
                assert torch.equal(_protected_values(protection), held)
                if mode == optimizer.eval:
                    evaluated = [p.detach().clone() for p in model.parameters()]
    moved = [not torch.equal(one, other) for one, other in zip(training, evaluated, strict=True)]
    assert any(moved)
    assert protection.taken_up == 0


def _protected_values(protection):
    parameters = protection.isolation.parameters
    masks = protection.isolation.masks
    return torch.cat([p.detach().view(-1)[masks[name]] for name, p in parameters.items()])


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation (arXiv 2010.01412) in the way that is copied most."""

    def __init__(self, params, base, rho=0.05, **settings):
        super().__init__(params, {"rho": rho, **settings})
        self.base_optimizer = base(self.param_groups, **settings)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self):
        norm = nn.utils.get_total_norm(p.grad for p in self._parameters())
        for parameter in self._parameters():
            aside = parameter.grad * (0.05 / (norm + 1e-12))
            self.state[parameter]["aside"] = aside
            parameter.add_(aside)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for parameter in self._parameters():
            parameter.sub_(self.state[parameter]["aside"])  # not the bits that were there
        self.base_optimizer.step()
        self.zero_grad()

    def step(self, closure=None):
        self.first_step()
        closure()
        self.second_step()

    def _parameters(self):
        return [p for group in self.param_groups for p in group["params"]]


def test_both_ways_to_drive_sharpness_aware_minimisation(witness):
    results = []
    for by_closure in (False, True):
        model, generator = _model(), torch.Generator().manual_seed(0)
        optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.05, momentum=0.9)
        protection = protect(optimizer, model, ratio=0.4, interval=3, warmup=2)
        watch = witness(protection.isolation)
        for _ in range(7):
            _backward(model, generator)
            if by_closure:
                optimizer.step(lambda m=model, g=generator: _backward(m, g))
            else:
                optimizer.first_step()
                _backward(model, generator)
                optimizer.second_step()
            watch.check()
        assert (protection.steps, protection.refreshes, protection.taken_up) == (7, 2, 0)
        assert watch.checked
        results.append([p.detach().clone() for p in model.parameters()])
        protection.remove()
        assert "first_step" not in vars(optimizer)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_who_protects_the_optimizer_within_a_wrapper_is_told_to_protect_the_wrapper():
    model, generator = _model(), torch.Generator().manual_seed(0)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.05)
    protection = protect(optimizer.base_optimizer, model, ratio=0.4, interval=100, warmup=1)
    with pytest.warns(UserWarning, match="writes in each step, protect the wrapper"):
        for _ in range(5):
            _backward(model, generator)
            optimizer.first_step()
            _backward(model, generator)
            optimizer.second_step()
    assert protection.statistics()["taken_up"] > 0


def test_weights_that_are_loaded_back_before_the_first_phase_are_held():
    model, generator = _model(), torch.Generator().manual_seed(0)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.05)
    protection = protect(optimizer, model, ratio=0.4, interval=100, warmup=1)
    for step in range(3):
        _backward(model, generator)
        if step == 2:
            model.load_state_dict({n: v + 1 for n, v in model.state_dict().items()})
            loaded = {n: p.detach().clone() for n, p in model.named_parameters()}
            with pytest.warns(UserWarning, match="written by other code"):
                optimizer.first_step()
        else:
            optimizer.first_step()
        _backward(model, generator)
        optimizer.second_step()
    for name, parameter in model.named_parameters():
        mask = protection.isolation.masks[name].view(parameter.shape)
        assert torch.equal(parameter[mask], loaded[name][mask])


def test_two_phases_without_a_base_optimizer_are_refused():
    class Alone(torch.optim.SGD):
        def first_step(self):
            pass

        def second_step(self):
            pass

    model = _model()
    with pytest.raises(UserError, match=r"first_step\(\).*gradients_ready\(\)"):
        protect(Alone(model.parameters(), lr=0.1), model)


@pytest.mark.parametrize("importance", ["ema", "ema_bf16", "factored", "optimizer"])
def test_sparse_gradients_are_measured_as_dense_ones(importance, witness):
    settings = {"ratio": 0.2, "interval": 2, "warmup": 2, "importance": importance}
    measured = []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(50, 8, sparse=sparse))
        choose = torch.optim.SparseAdam if sparse and importance == "optimizer" else torch.optim.SGD
        if importance == "optimizer" and not sparse:
            continue
        optimizer = choose(model.parameters(), lr=0.1)
        protection = protect(optimizer, model, **settings)
        watch, generator = witness(protection.isolation), torch.Generator().manual_seed(0)
        for _ in range(6):
            optimizer.zero_grad()
            tokens = torch.randint(0, 50, (60,), generator=generator)
            model(torch.cat([tokens, tokens[:2]])).square().sum().backward()  # some rows twice
            optimizer.step()
            watch.check()
        assert watch.checked
        measured.append(protection.isolation.importance.values["0.weight"].clone())
    assert measured[0].any()
    if len(measured) == 2:
        assert torch.allclose(measured[0], measured[1], rtol=1e-2 if importance[4:] else 1e-6)

"""What other code does to weights between two steps is held; what cannot be held is refused."""

from __future__ import annotations

import copy
import gc
import warnings
import weakref

import pytest
import torch
from torch import nn

from epi_bench import (
    Isolation,
    Protection,
    UserError,
    protect,
)

PROTECTING = {"ratio": 0.4, "interval": 100, "warmup": 2}


def _model(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 3)).to(dtype)


def _train(model, optimizer, steps, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        inputs = torch.randn(8, 6, generator=generator).to(next(model.parameters()).dtype)
        optimizer.zero_grad()
        (model(inputs) - inputs[:, :3]).float().square().mean().backward()
        optimizer.step()


def _values(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _protected(optimizer_class=torch.optim.SGD, **settings):
    model = _model()
    optimizer = optimizer_class(model.parameters(), lr=0.05)
    protection = protect(optimizer, model, **{**PROTECTING, **settings})
    _train(model, optimizer, 3)
    return model, optimizer, protection


def _stand_still(optimizer):
    for group in optimizer.param_groups:
        group["lr"] = 0.0


def _copy(model, values):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])


def _copy_data(model, values):
    for name, parameter in model.named_parameters():
        parameter.data.copy_(values[name])


def _replace_data(model, values):
    for name, parameter in model.named_parameters():
        parameter.data = values[name].clone()


def _from_vector(model, values):
    nn.utils.vector_to_parameters(torch.cat([v.view(-1) for v in values.values()]),
                                  model.parameters())  # fmt: skip


def _detached(model, values):
    for name, parameter in model.named_parameters():
        parameter.detach().copy_(values[name])


WAYS = {
    "load_state_dict": lambda model, values: model.load_state_dict(values),
    "copy": _copy,
    "copy to data": _copy_data,
    "other data": _replace_data,
    "vector_to_parameters": _from_vector,
    "copy to a detached view": _detached,
}


@pytest.mark.parametrize("ratio", [0.4, 0.05])
@pytest.mark.parametrize("way", WAYS)
def test_weights_that_are_loaded_back_are_held(way, ratio, witness):
    model, optimizer, protection = _protected(ratio=ratio)
    best = {name: value + 0.25 for name, value in _values(model).items()}
    WAYS[way](model, best)
    _stand_still(optimizer)
    with pytest.warns(UserWarning, match="written by other code"):
        _train(model, optimizer, 1)
    assert all(torch.equal(value, best[name]) for name, value in _values(model).items())
    assert protection.statistics()["taken_up"] == protection.isolation.protected_count
    optimizer.param_groups[0]["lr"] = 0.05
    watch = witness(protection.isolation)
    _train(model, optimizer, 2)
    watch.check()


def test_weights_that_are_clamped_by_hand_are_held_at_the_clamped_values():
    model, optimizer, protection = _protected()
    masks = protection.isolation.masks
    wanted = {name: value.clamp(-0.1, 0.1) for name, value in _values(model).items()}
    with pytest.warns(UserWarning, match="written by other code"):
        for _ in range(3):
            for parameter in model.parameters():
                parameter.detach().clamp_(-0.1, 0.1)
            _train(model, optimizer, 1)
    for name, value in _values(model).items():
        mask = masks[name].view(value.shape)
        assert torch.equal(value[mask], wanted[name][mask])
    clamped = sum(int((wanted[name].abs() == 0.1).view(-1)[masks[name]].sum()) for name in masks)
    assert protection.taken_up == clamped > 0


def test_running_statistics_are_not_held():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    protection = protect(optimizer, model, **PROTECTING)
    _train(model, optimizer, 3)
    before = model[1].running_mean.clone()
    _train(model, optimizer, 1)
    assert not torch.equal(model[1].running_mean, before)
    assert not any("running" in name for name in protection.isolation.masks)


def test_one_layer_that_is_loaded_back_is_held_and_the_rest_too(witness):
    model, optimizer, protection = _protected()
    held = {name: mask.clone() for name, mask in protection.isolation.masks.items()}
    before = _values(model)
    model[2].load_state_dict({name: v + 1 for name, v in model[2].state_dict().items()})
    with pytest.warns(UserWarning):
        _train(model, optimizer, 2)
    for name, value in _values(model).items():
        mask = held[name].view(value.shape)
        expected = before[name] + 1 if name.startswith("2.") else before[name]
        assert torch.equal(value[mask], expected[mask])
    assert protection.taken_up == sum(int(m.sum()) for n, m in held.items() if n.startswith("2."))


def test_an_average_that_is_swapped_in_for_evaluation_and_out_again_changes_nothing():
    model, optimizer, protection = _protected()
    average = torch.optim.swa_utils.AveragedModel(model)
    _train(model, optimizer, 1)
    before = _values(model)
    _copy(model, dict(average.module.named_parameters()))
    _copy(model, before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _train(model, optimizer, 1)
    assert protection.taken_up == 0
    assert "taken_up" not in protection.statistics()


def test_it_is_told_once_and_not_at_all_if_one_says_so():
    model, optimizer, protection = _protected()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        _copy(model, {name: value + 1 for name, value in _values(model).items()})
        assert protection.take_up_changes() == protection.isolation.protected_count
        assert protection.take_up_changes() == 0
        _train(model, optimizer, 1)
        assert not told
        for _ in range(2):
            _copy(model, {name: value + 1 for name, value in _values(model).items()})
            _train(model, optimizer, 1)
    assert len(told) == 1
    assert protection.taken_up == 3 * protection.isolation.protected_count


def test_the_same_protection_on_the_next_optimizer_holds_what_the_model_has_now():
    model, _, protection = _protected()
    protection.remove()
    _copy(model, {name: value * 2 for name, value in _values(model).items()})
    best = _values(model)
    later = torch.optim.SGD(model.parameters(), lr=0.0)
    protection.attach(later)
    _train(model, later, 1)
    assert all(torch.equal(value, best[name]) for name, value in _values(model).items())


def test_what_a_step_that_raised_has_moved_is_put_back(witness):
    class Failing(torch.optim.SGD):
        fails = False

        def step(self, closure=None):
            super().step(closure)
            if self.fails:
                raise RuntimeError("out of memory")

    model, optimizer, protection = _protected(Failing)
    watch = witness(protection.isolation)
    optimizer.fails = True
    with torch.no_grad():
        model[0].weight.add_(0)
    with pytest.raises(RuntimeError):
        _train(model, optimizer, 1)
    with torch.no_grad():  # what the step did after its inner step, up to where it raised
        for parameter in model.parameters():
            parameter.mul_(0.5)
    optimizer.fails = False
    _train(model, optimizer, 1)
    watch.check()
    assert protection.taken_up == 0


@pytest.mark.parametrize("ratio", [0.4, 0.05])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (torch.float32, torch.bfloat16),
        (torch.float16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float64),
    ],
)
def test_a_model_that_is_cast_is_held_at_its_values_there(before, after, ratio):
    model = _model(before)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    protection = protect(optimizer, model, **{**PROTECTING, "ratio": ratio})
    _train(model, optimizer, 3)
    masks = {name: mask.clone() for name, mask in protection.isolation.masks.items()}
    model.to(after)
    cast = _values(model)
    with pytest.warns(UserWarning, match="a model cast"):
        _train(model, optimizer, 3)
    for name, value in _values(model).items():
        assert value.dtype == after
        mask = masks[name].view(value.shape)
        assert torch.equal(value[mask], cast[name][mask])
        assert torch.equal(protection.isolation.masks[name], masks[name])
    moved = [not torch.equal(v, cast[n]) for n, v in _values(model).items()]
    assert any(moved)


def test_a_cast_within_a_step_is_refused():
    model = _model()
    engine = Isolation(model.named_parameters(), ratio=0.4)
    _train(model, torch.optim.SGD(model.parameters(), lr=0.05), 1)
    engine.observe()
    engine.refresh()
    model.bfloat16()
    with pytest.raises(UserError, match=r"bfloat16 on cpu now and was .* float32"):
        engine.restore()
    assert engine.take_up_changes() == engine.protected_count
    engine.restore()


def _convolution(memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(128, 2))
    return model.to(memory_format=memory_format)


def _step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(4, 3, 6, 6)).square().mean().backward()
    optimizer.step()


def test_another_memory_format_is_refused_before_a_value_lands_elsewhere():
    model = _convolution()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    protection = protect(optimizer, model, ratio=0.4, interval=100, warmup=1)
    _step(model, optimizer)
    weight = model[0].weight.detach().clone()
    model.to(memory_format=torch.channels_last)
    with pytest.raises(UserError, match=r"memory order \[0, 2, 3, 1\].*protect again"):
        _step(model, optimizer)
    assert torch.equal(model[0].weight, weight)
    protection.remove()
    again = protect(optimizer, model, ratio=0.4, interval=100, warmup=1)
    _step(model, optimizer)
    _step(model, optimizer)
    state = again.state_dict()
    usual = model.to(memory_format=torch.contiguous_format)
    with pytest.raises(UserError, match=r"'0\.weight' lies in memory in another order"):
        Protection(optimizer, usual).load_state_dict(state)


def test_a_parameter_of_another_shape_is_refused():
    model, optimizer, _ = _protected()
    model[2].bias.data = torch.zeros(4)
    optimizer.zero_grad()
    with pytest.raises(UserError, match=r"'2\.bias' is 4 float32 on cpu now and was 3 float32"):
        optimizer.step()


def test_parameters_that_are_added_or_begin_to_train_later_join():
    model = _model()
    model[1].requires_grad_(False)
    optimizer = torch.optim.SGD([*model[1].parameters(), *model[2].parameters()], lr=0.05)
    protection = protect(optimizer, model, ratio=0.4, interval=2, warmup=2)
    _train(model, optimizer, 3)
    first = {name: v.clone() for name, v in protection.isolation.importance.values.items()}
    masks = {name: mask.clone() for name, mask in protection.isolation.masks.items()}
    assert list(first) == ["2.weight", "2.bias"]
    optimizer.add_param_group({"params": list(model[0].parameters())})
    protection.gradients_ready()  # as a loop without hooks calls it
    assert list(protection.isolation.parameters) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    for name, mask in masks.items():
        assert torch.equal(protection.isolation.masks[name], mask)
        assert bool((protection.isolation.importance.values[name] >= 0.999 * first[name]).all())
    assert not protection.isolation.masks["0.weight"].any()
    model[1].requires_grad_(True)
    _train(model, optimizer, 3)
    assert protection.steps == 6
    assert list(protection.isolation.parameters) == [name for name, _ in model.named_parameters()]
    assert protection.isolation.protected_count == protection.isolation.target_count
    assert protection.isolation.masks["0.weight"].any()


def test_parameters_that_are_frozen_later_are_held_and_keep_counting():
    model, optimizer, protection = _protected()
    masks, before = protection.isolation.masks, _values(model)
    model[0].requires_grad_(False)
    _train(model, optimizer, 2)
    for name, value in _values(model).items():
        mask = masks[name].view(value.shape)
        assert torch.equal(value[mask], before[name][mask])
        assert torch.equal(protection.isolation.masks[name], masks[name])
        assert torch.equal(value, before[name]) == name.startswith("0.")


def test_parameters_of_another_model_are_left_alone():
    model, other = _model(), nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    protection = protect(optimizer, model, **PROTECTING)
    optimizer.add_param_group({"params": list(other.parameters())})
    _train(model, optimizer, 1)
    engine = protection.isolation
    _train(model, optimizer, 1)
    assert protection.isolation is engine
    assert list(engine.parameters) == [name for name, _ in model.named_parameters()]


def test_a_state_that_was_saved_beside_other_weights_is_refused():
    model, _, protection = _protected()
    state = {name: tensor.clone() for name, tensor in protection.state_dict().items()}
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[2].weight[0, 0] += 1e-6
    later = Protection(torch.optim.SGD(other.parameters(), lr=0.1), other, **PROTECTING)
    with pytest.raises(UserError, match=r"1 of 6 parameters differ, the first is '2\.weight'"):
        later.load_state_dict(state)
    assert later.steps == 0
    other.load_state_dict(model.state_dict())
    later.load_state_dict(state)
    del state["bridge.checksums"]  # as versions before have written it
    later.load_state_dict(state)
    assert later.steps == 3


def test_a_protection_does_not_keep_a_finished_optimizer_alive():
    _, optimizer, protection = _protected()
    finished = weakref.ref(optimizer)
    protection.remove()
    del optimizer
    gc.collect()
    assert finished() is None

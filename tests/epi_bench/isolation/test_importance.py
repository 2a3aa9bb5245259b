"""Importance in its four modes: what it tracks, what it costs, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from epi_bench.errors import UserError
from epi_bench.isolation import Isolation
from epi_bench.isolation.importance_modes import create_importance

SHAPES = {"matrix": (48, 64), "vector": (64,), "cube": (6, 5, 32)}
SIZE = 48 * 64 + 64 + 6 * 5 * 32


def _parameters():
    generator = torch.Generator().manual_seed(0)
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator))
        for name, shape in SHAPES.items()
    }


def _gradients(parameters, step):
    """Drawn anew at each step, with a scale of its own for every element."""
    generator = torch.Generator().manual_seed(step)
    for number, parameter in enumerate(parameters.values()):
        own = torch.Generator().manual_seed(1000 + number)
        scale = torch.rand(parameter.shape, generator=own) + 0.01
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)


def _observed(mode, steps, beta, parameters=None, **options):
    parameters = parameters or _parameters()
    importance = create_importance(mode, parameters, beta, **options)
    for step in range(steps):
        _gradients(parameters, step)
        assert importance.observe()
    return importance


@pytest.mark.parametrize("beta", [0.99, 0.999])
def test_bfloat16_tracks_single_precision(beta):
    exact, rounded = _observed("ema", 800, beta), _observed("ema_bf16", 800, beta)
    for name in SHAPES:
        expected, found = exact.values[name], rounded.values[name]
        # unbiased: the mean over all elements agrees far better than one element can
        assert found.mean().item() == pytest.approx(expected.mean().item(), rel=0.01)
        assert ((found - expected) / expected).abs().median().item() < 0.1


def test_bfloat16_goes_on_where_plain_rounding_gets_stuck():
    """At a quarter, a step of 0.00075 is less than half the distance to the next number."""
    weight = nn.Parameter(torch.zeros(2000))
    weight.grad = torch.ones(2000)
    importance = create_importance("ema_bf16", {"w": weight}, 0.999)
    plain = torch.zeros((), dtype=torch.bfloat16)
    for _ in range(1500):
        importance.observe()
        plain = (0.999 * plain.float() + 0.001).bfloat16()
    assert plain.item() == 0.25
    expected = 1 - 0.999**1500
    assert importance.values["w"].mean().item() == pytest.approx(expected, rel=0.01)


def test_bfloat16_rounding_is_the_same_for_the_same_seed_and_goes_on_after_a_resume():
    first, second = _observed("ema_bf16", 6, 0.99, seed=3), _observed("ema_bf16", 6, 0.99, seed=3)
    other = _observed("ema_bf16", 6, 0.99, seed=4)
    assert torch.equal(first.values["matrix"], second.values["matrix"])
    assert not torch.equal(first.values["matrix"], other.values["matrix"])
    parameters = _parameters()
    begun = _observed("ema_bf16", 3, 0.99, parameters, seed=3)
    resumed = create_importance("ema_bf16", parameters, 0.99, seed=3)
    resumed.load_state_dict({name: t.clone() for name, t in begun.state_dict().items()})
    for step in (3, 4, 5):
        _gradients(parameters, step)
        resumed.observe()
    assert torch.equal(first.values["matrix"], resumed.values["matrix"])


def test_factored_is_exact_where_squared_gradients_have_rank_one():
    weight = nn.Parameter(torch.zeros(3, 4))
    rows, columns = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 2.0, 4.0])
    importance = create_importance("factored", {"w": weight}, 0.9)
    weight.grad = torch.outer(rows, columns)
    importance.observe()
    assert torch.allclose(importance.values["w"], 0.1 * torch.outer(rows**2, columns**2))


def test_factored_keeps_the_means_of_rows_and_columns_and_vectors_whole():
    exact, factored = _observed("ema", 20, 0.9), _observed("factored", 20, 0.9)
    assert torch.allclose(factored.values["vector"], exact.values["vector"])
    for name in ("matrix", "cube"):
        found, expected = factored.values[name], exact.values[name]
        assert torch.allclose(found.mean(-1), expected.mean(-1), rtol=1e-4)
        columns = found.shape[-1]
        assert torch.allclose(
            found.view(-1, columns).mean(0), expected.view(-1, columns).mean(0), rtol=1e-4
        )


@pytest.mark.parametrize("fused", [False, True])
def test_optimizer_mode_is_the_average_with_beta2_of_the_clipped_gradient(fused):
    parameters = _parameters()
    optimizer = torch.optim.AdamW(parameters.values(), betas=(0.9, 0.95), fused=fused)
    expected = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    engine = Isolation(
        parameters.items(), ratio=0.3, beta=0.5, importance="optimizer", optimizer=optimizer
    )
    for step in range(5):
        _gradients(parameters, step)
        engine.observe()
        nn.utils.clip_grad_norm_(parameters.values(), 0.5)
        for name, parameter in parameters.items():
            expected[name].mul_(0.95).addcmul_(parameter.grad, parameter.grad, value=0.05)
        optimizer.step()
    for name in SHAPES:
        assert torch.allclose(engine.importance.values[name], expected[name], rtol=1e-5)
    engine.refresh()
    assert engine.protected_count == engine.target_count


def test_a_weight_the_optimizer_never_stepped_has_no_importance():
    first, second = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(8))
    optimizer = torch.optim.AdamW([first, second])
    named = [("first", first), ("second", second)]
    engine = Isolation(named, ratio=0.75, importance="optimizer", optimizer=optimizer)
    first.grad = torch.ones(8)
    optimizer.step()
    engine.refresh()
    assert engine.masks["first"].all()
    assert not engine.masks["second"].any()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adafactor, torch.optim.RMSprop])
def test_an_optimizer_without_second_moment_is_refused_with_the_modes_that_work(kind):
    parameters = _parameters()
    optimizer = kind(parameters.values(), lr=0.1)
    with pytest.raises(UserError, match=f"{kind.__name__}.*ema, ema_bf16 or factored"):
        Isolation(parameters.items(), importance="optimizer", optimizer=optimizer)
    Isolation(parameters.items(), importance="ema", optimizer=optimizer)


def test_an_unknown_optimizer_without_second_moment_is_refused_at_the_first_refresh():
    class Foreign(torch.optim.SGD):
        __module__ = "elsewhere"

    parameters = _parameters()
    optimizer = Foreign(parameters.values(), lr=0.1, momentum=0.9)
    engine = Isolation(parameters.items(), importance="optimizer", optimizer=optimizer)
    _gradients(parameters, 0)
    optimizer.step()
    with pytest.raises(UserError, match="Foreign"):
        engine.refresh()


def test_optimizer_mode_without_an_optimizer_says_how_to_give_one():
    with pytest.raises(UserError, match="attach_optimizer"):
        Isolation(_parameters().items(), importance="optimizer").refresh()


BYTES = {
    "ema": 4 * SIZE,
    "ema_bf16": 2 * SIZE,
    "factored": 4 * (48 + 64 + 64 + 6 * 5 + 32),
    "optimizer": 0,
}
"""As the documentation of the modes says."""


@pytest.mark.parametrize("mode", BYTES)
def test_measured_bytes_are_the_documented_ones(mode):
    engine = Isolation(_parameters().items(), importance=mode)
    assert engine.state_bytes() == BYTES[mode]
    kept = [t for n, t in engine.state_dict().items() if n.startswith("importance.")]
    # beside the averages only the number of steps, from which the rounding goes on
    assert sum(t.numel() * t.element_size() for t in kept if t.ndim) == BYTES[mode]


@pytest.mark.parametrize("mode", ["ema", "ema_bf16", "factored"])
def test_the_memory_that_is_really_allocated_is_the_documented_one(mode):
    parameters = _parameters()
    importance = create_importance(mode, parameters, 0.9)
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in importance.state_dict().values()
        if tensor.ndim
    }
    assert sum(storages.values()) == BYTES[mode]


@pytest.mark.parametrize("mode", ["ema", "ema_bf16", "factored"])
def test_offloading_changes_nothing_but_the_place(mode):
    here, there = _observed(mode, 4, 0.9), _observed(mode, 4, 0.9, offload=True)
    for name in SHAPES:
        assert torch.equal(here.values[name], there.values[name])
        assert there.values[name].device.type == "cpu"


def test_offloading_nothing_is_refused():
    with pytest.raises(UserError, match="offload"):
        create_importance("optimizer", _parameters(), 0.9, offload=True)


def test_an_unknown_mode_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="ema, ema_bf16, factored, optimizer"):
        Isolation(_parameters().items(), importance="fisher")


@pytest.mark.parametrize("mode", BYTES)
def test_bfloat16_gradients_are_squared_in_single_precision(mode):
    weight = nn.Parameter(torch.zeros(1, 2, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([weight], betas=(0.9, 0.0))
    engine = Isolation([("w", weight)], beta=0.0, importance=mode, optimizer=optimizer)
    weight.grad = torch.tensor([[1.5, 1e-3]], dtype=torch.bfloat16)
    engine.observe()
    optimizer.step()
    expected = weight.grad.float().square()
    assert torch.allclose(engine.importance.values["w"], expected, rtol=1e-2)


@pytest.mark.parametrize("mode", ["ema", "ema_bf16", "factored"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_no_mode_is_poisoned_by_gradients_that_are_not_finite(mode, poison):
    parameters = _parameters()
    importance = _observed(mode, 2, 0.9, parameters)
    before = {name: importance.values[name].clone() for name in SHAPES}
    parameters["matrix"].grad[3, 4] = poison
    assert not importance.observe()  # 1e30 is finite, but its square is not
    assert all(torch.equal(importance.values[name], before[name]) for name in SHAPES)


@pytest.mark.parametrize("mode", BYTES)
def test_state_round_trip(mode):
    parameters = _parameters()
    optimizer = torch.optim.AdamW(parameters.values())
    options = {"ratio": 0.3, "importance": mode, "optimizer": optimizer}
    engine = Isolation(parameters.items(), **options)
    for step in range(3):
        _gradients(parameters, step)
        engine.observe()
        optimizer.step()
        engine.restore()
        engine.refresh()
    resumed = Isolation(parameters.items(), **options)
    resumed.load_state_dict({name: t.clone() for name, t in engine.state_dict().items()})
    for name in SHAPES:
        assert torch.equal(resumed.importance.values[name], engine.importance.values[name])
        assert torch.equal(resumed.masks[name], engine.masks[name])
    resumed.refresh()
    engine.refresh()
    assert resumed.statistics() == engine.statistics()


def test_a_state_of_other_shapes_is_refused_and_the_parameter_named():
    state = Isolation(_parameters().items()).state_dict()
    changed = _parameters()
    changed["matrix"] = nn.Parameter(torch.zeros(64, 48))
    with pytest.raises(UserError, match=r"'matrix' has shape \(64, 48\).*\(48, 64\)"):
        Isolation(changed.items()).load_state_dict(state)
    changed = _parameters()
    added = {**changed, "new": nn.Parameter(torch.zeros(2))}
    with pytest.raises(UserError, match="'new'"):
        Isolation(added.items()).load_state_dict(state)
    del changed["cube"]
    with pytest.raises(UserError, match="'cube'"):
        Isolation(changed.items()).load_state_dict(state)


def test_a_state_of_another_mode_is_refused():
    state = Isolation(_parameters().items(), importance="ema_bf16").state_dict()
    for mode in ("ema", "factored"):
        with pytest.raises(UserError, match="importance mode"):
            Isolation(_parameters().items(), importance=mode).load_state_dict(state)


def test_a_second_moment_in_bfloat16_is_refused_because_it_never_shrinks():
    """200 gradients of 1 and 1000 of 0 leave 0.181, not 0.067."""
    weight = nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([weight], lr=1e-6)
    engine = Isolation([("w", weight)], importance="optimizer", optimizer=optimizer)
    for step in range(2):
        weight.grad = torch.full_like(weight, 1.0 - step)
        optimizer.step()
        moments = float(optimizer.state[weight]["exp_avg_sq"][0, 0])
    assert moments == float(torch.tensor(0.001).bfloat16())  # it has not decayed
    with pytest.raises(UserError, match=r"kept in bfloat16.*beta2=0.999.*ema_bf16"):
        engine.refresh()


def test_a_bfloat16_moment_that_forgets_fast_enough_may_be_read():
    weight = nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([weight], lr=1e-6, betas=(0.9, 0.95))
    engine = Isolation([("w", weight)], importance="optimizer", optimizer=optimizer)
    for step in range(40):
        weight.grad = torch.full_like(weight, float(step < 20))
        optimizer.step()
    expected = (1 - 0.95**20) * 0.95**20
    assert float(engine.importance.values["w"][0, 0]) == pytest.approx(expected, rel=0.1)


def test_bfloat16_weights_whose_moment_is_float32_may_be_read():
    weight = nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([weight])
    optimizer.state[weight]["exp_avg_sq"] = torch.ones(4, 4)
    engine = Isolation([("w", weight)], importance="optimizer", optimizer=optimizer)
    assert torch.equal(engine.importance.values["w"], torch.ones(4, 4))


def test_an_optimizer_with_a_second_moment_for_some_parameters_only_is_refused():
    """Matrices would have importance zero and never be protected."""
    from transformers import Adafactor

    parameters = _parameters()
    optimizer = Adafactor(parameters.values(), lr=0.1, relative_step=False)
    _gradients(parameters, 0)
    optimizer.step()
    with pytest.raises(UserError, match="Adafactor does not keep"):
        Isolation(parameters.items(), importance="optimizer", optimizer=optimizer)

    class Mixed(Adafactor):
        """Of another name."""

    engine = Isolation(
        parameters.items(),
        importance="optimizer",
        optimizer=Mixed(parameters.values(), lr=0.1, relative_step=False),
    )
    engine.importance._optimizer.state.update(optimizer.state)
    with pytest.raises(UserError, match="Mixed does not keep"):
        engine.refresh()

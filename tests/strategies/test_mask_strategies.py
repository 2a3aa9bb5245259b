"""The mask strategies inside the training loop."""

from __future__ import annotations

import pytest
import torch

from epi_bench import Strategy

MASKS = ["epi", "random_mask", "inverted_mask"]


def _bits(model):
    return {n: p.detach().clone().view(torch.int32) for n, p in model.named_parameters()}


class _Watch:
    """After each step: is everything that was protected before it still bit-identical?"""

    def __init__(self):
        self.before, self.masks, self.checked = None, None, 0

    def __call__(self, step, rate):
        now = _bits(step.model)
        if self.masks is not None:
            for name, mask in self.masks.items():
                assert torch.equal(now[name].view(-1)[mask], self.before[name].view(-1)[mask])
                self.checked += int(mask.sum())
        self.before = now
        self.masks = self.strategy.isolation.masks if self.strategy._refreshes else None


@pytest.mark.parametrize("name", [*MASKS, "static_mask"])
@pytest.mark.parametrize(
    "training",
    [
        {"optimizer": "adamw", "weight_decay": 0.5},
        {"optimizer": "sgd", "learning_rate": 0.1},
        {"optimizer": "adafactor"},
        {"accumulation": 2, "max_gradient_norm": 0.1},
        {"autocast": "bf16"},
    ],
    ids=["adamw", "sgd", "adafactor", "accumulation", "autocast"],
)
def test_protected_weights_are_bit_identical_in_the_loop(name, training, train_toy):
    from epi_bench.strategy.strategy import create_strategy

    schedule = {"warmup": 2, "interval": 3} if name in MASKS else {"measure": "warmup", "warmup": 2}
    watch = _Watch()
    watch.strategy = create_strategy(name, {"ratio": 0.4, **schedule})
    train_toy(strategy=watch.strategy, on_step=watch, **training)
    assert watch.checked > 100_000


@pytest.mark.parametrize("name", [*MASKS, "static_mask"])
def test_ratio_zero_trains_bit_identically_to_full_fine_tuning(name, train_toy):
    masked, plain = train_toy(name, {"ratio": 0}), train_toy("full_sft")
    pairs = list(zip(masked.model.parameters(), plain.model.parameters(), strict=True))
    assert pairs
    for first, second in pairs:
        assert torch.equal(first, second)
    assert masked.strategy.state_bytes() == 0


def test_epi_protects_the_asked_share_and_its_mask_moves(train_toy):
    loop = train_toy("epi", {"ratio": 0.3, "warmup": 1, "interval": 2})
    statistics = loop.strategy.diagnostics()
    assert statistics["achieved_ratio"] == pytest.approx(0.3, rel=1e-3)
    assert statistics["refreshes"] == 6  # steps 1, 3, 5, 7, 9, 11 of 12
    assert 0 < statistics["jaccard_previous"] < 1


def test_a_static_mask_is_taken_once_and_stays(train_toy):
    seen = []

    def on_step(step, rate):
        if loop_strategy._refreshes:
            seen.append({n: m.clone() for n, m in loop_strategy.isolation.masks.items()})

    from epi_bench.strategy.strategy import create_strategy

    loop_strategy = create_strategy("static_mask", {"ratio": 0.3})
    train_toy(strategy=loop_strategy, on_step=on_step)
    assert len(seen) == 6  # all steps of the second experience, none of the first
    assert all(torch.equal(seen[0][n], later[n]) for later in seen for n in seen[0])


def test_a_random_mask_is_redrawn_and_overlaps_by_chance(train_toy):
    loop = train_toy("random_mask", {"ratio": 0.5, "warmup": 1, "interval": 1})
    statistics = loop.strategy.diagnostics()
    assert statistics["jaccard_previous"] == pytest.approx(1 / 3, abs=0.02)


def test_inverted_and_epi_protect_disjoint_halves(train_toy):
    options = {"ratio": 0.3, "warmup": 6, "interval": 100}
    epi, inverted = (
        train_toy(name, options, tasks=["toy_first"]).strategy.isolation
        for name in ("epi", "inverted_mask")
    )
    for name, mask in epi.masks.items():
        assert not bool((mask & inverted.masks[name]).any())


def test_a_mask_lives_on_adapter_weights_when_only_they_are_trained(train_toy):
    class EpiOnAdapters(Strategy):
        pass

    from epi_bench.strategy.strategy import create_strategy

    lora, epi = create_strategy("lora", {"rank": 2}), create_strategy("epi", {"warmup": 1})
    EpiOnAdapters.prepare_model = staticmethod(lora.prepare_model)
    both = EpiOnAdapters()

    def step(step):
        epi.context = both.context
        epi.gradients_ready(step)

    both.gradients_ready, both.parameters_updated = step, epi.parameters_updated
    train_toy(strategy=both)
    assert all("lora_" in name for name in epi.isolation.parameters)
    assert epi.isolation.protected_count == epi.isolation.target_count


@pytest.mark.parametrize("name", ["epi", "random_mask", "inverted_mask", "static_mask"])
def test_a_warmup_longer_than_the_run_warns_that_nothing_is_protected(name, toy_spec):
    from epi_bench.runs.preparation import prepare_run

    options = {"warmup": 13} | ({"measure": "warmup"} if name == "static_mask" else {})
    long = prepare_run(toy_spec(name, options)).warnings
    assert any(f"{name} never protects anything" in message for message in long)
    enough = prepare_run(toy_spec(name, options | {"warmup": 12})).warnings
    assert not any("never protects" in message for message in enough)


def test_a_static_mask_of_the_only_experience_warns(toy_spec):
    from epi_bench.runs.preparation import prepare_run

    mixed = prepare_run(toy_spec("static_mask", stream={"kind": "mixed"})).warnings
    assert any("static_mask acts from experience 2 on" in message for message in mixed)
    early = {"measure": "warmup", "warmup": 2}
    mixed = prepare_run(toy_spec("static_mask", early, stream={"kind": "mixed"})).warnings
    assert not any("acts from" in message for message in mixed)
    sequential = prepare_run(toy_spec("static_mask")).warnings
    assert not any("acts from" in message for message in sequential)


@pytest.mark.parametrize("name", ["epi", "inverted_mask", "static_mask"])
def test_reading_a_second_moment_that_the_optimizer_lacks_is_refused_in_time(name, toy_spec):
    from epi_bench import UserError
    from epi_bench.runs.preparation import prepare_run

    with pytest.raises(UserError, match=r"sgd.*ema, ema_bf16 or factored"):
        prepare_run(toy_spec(name, {"importance": "optimizer"}, optimizer="sgd"))


@pytest.mark.parametrize("mode", ["ema_bf16", "factored", "optimizer"])
def test_every_memory_mode_protects_the_asked_share_and_its_mask_moves(mode, train_toy):
    options = {"ratio": 0.3, "warmup": 1, "interval": 2, "importance": mode}
    loop = train_toy("epi", options, tasks=["toy_first"])
    statistics = loop.strategy.diagnostics()
    assert statistics["achieved_ratio"] == pytest.approx(0.3, rel=1e-3)
    assert 0 < statistics["jaccard_previous"] < 1

"""The cost of strategies on a model: what is compared, and what is counted."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from epi_bench.errors import UserError
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.training.profiling import Profile, Workload, profile_strategies

WORKLOAD = Workload(batch_size=2, length=16, steps=3, rounds=2)


@pytest.fixture(scope="module")
def model(toy_model):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(toy_model)


def _profiles(model, *names, **options):
    chosen = {name: (name, options) for name in names}
    training = TrainingSpec(steps=1, batch_size=WORKLOAD.batch_size)
    found = profile_strategies(model, chosen, WORKLOAD, training, cpu=True)
    return {profile.strategy: profile for profile in found}


def test_every_strategy_is_measured_beside_full_fine_tuning(model):
    before = [p.detach().clone() for p in model.parameters()]
    assert before
    profiles = _profiles(model, "epi", "lora", "ewc")
    assert list(profiles) == ["full_sft", "epi", "lora", "ewc"]
    size = sum(p.numel() for p in model.parameters())
    for profile in profiles.values():
        assert profile.error is None
        assert len(profile.seconds) == WORKLOAD.rounds
        assert all(seconds > 0 for seconds in profile.seconds)
    assert profiles["full_sft"].extra_state_bytes == 0
    assert profiles["epi"].extra_state_bytes > 4 * size  # the average, and a mask in force
    assert profiles["ewc"].extra_state_bytes >= 8 * size  # anchor and importance
    assert profiles["lora"].trainable_parameters < profiles["epi"].trainable_parameters == size
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_a_memory_mode_shows_in_the_extra_state(model):
    size = sum(p.numel() for p in model.parameters())
    found = {
        mode: _profiles(model, "epi", importance=mode)["epi"].extra_state_bytes
        for mode in ("ema", "ema_bf16", "optimizer")
    }
    assert found["ema"] - found["optimizer"] == pytest.approx(4 * size, rel=0.05)
    assert found["ema_bf16"] - found["optimizer"] == pytest.approx(2 * size, rel=0.05)


def test_a_strategy_that_fails_does_not_stop_the_others(model):
    profiles = _profiles(model, "epi", "static_mask", ratio=0.999999999)
    assert profiles["full_sft"].error is None
    broken = copy_without_linear_layers(model)
    profiles = _profiles(broken, "lora")
    assert "rror" in profiles["lora"].error
    assert profiles["full_sft"].error is None


def copy_without_linear_layers(model):
    """A model that LoRA finds nothing to adapt in."""
    import copy

    broken = copy.deepcopy(model)
    broken.model.layers = torch.nn.ModuleList()
    return broken


def test_ratios_are_taken_within_a_round():
    plain, slow = Profile("full_sft", [1.0, 4.0, 2.0]), Profile("epi", [1.1, 4.4, 2.4])
    summary = slow.summary(plain, tokens=1000)
    assert summary["ratio_to_full_sft"] == pytest.approx(1.1)
    assert summary["ratio_range"] == pytest.approx([1.1, 1.2])
    assert summary["tokens_per_second"] == pytest.approx(1000 / 2.4)
    failed = Profile("x", error="no").summary(plain, 1000)
    assert failed["seconds_per_step"] is None
    assert failed["ratio_to_full_sft"] is None


def test_batches_longer_than_the_model_reads_are_refused(model):
    long = Workload(length=100_000)
    with pytest.raises(UserError, match="100000"):
        profile_strategies(model, {}, long, TrainingSpec(steps=1), cpu=True)


@pytest.mark.parametrize("output", ["json", "table"])
def test_the_command(toy_model, monkeypatch, capsys, output):
    from epi_bench.cli.app import main

    arguments = ["--model", toy_model, "--strategies", "epi", "--batch-size", 2, "--length", 8,
                 "--steps", 2, "--rounds", 1, "--cpu", "--format", output,
                 "--set", "importance=factored", "--threads", 1]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["epi-bench", "profile", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    if output == "json":
        report = json.loads(printed)
        assert [row["strategy"] for row in report["strategies"]] == ["full_sft", "epi"]
        assert report["batch_size"] == 2
    else:
        assert "full_sft" in printed
        assert "extra state MiB" in printed


def test_an_unknown_strategy_is_refused(monkeypatch, capsys):
    from epi_bench.cli.app import main

    monkeypatch.setattr(sys, "argv", ["epi-bench", "profile", "--strategies", "epy"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "unknown strategy 'epy': did you mean" in message
    assert "'epi'" in message

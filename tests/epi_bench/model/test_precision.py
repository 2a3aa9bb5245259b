"""bfloat16 weights: trained without loss, scored and saved as they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from epi_bench import Strategy
from epi_bench.errors import UserError
from epi_bench.evaluation.evaluator import Evaluator, TaskEvaluator
from epi_bench.model.load import load_backbone
from epi_bench.model.precision import WeightPrecision
from epi_bench.model.stochastic_rounding import round_stochastically
from epi_bench.runs.identity import run_id
from epi_bench.runs.preparation import prepare_run
from epi_bench.runs.reproducibility import Execution
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.training.optimizer import build_optimizer

SMALL = 2e-5
"""Learning rate of every model but tiny: next to nothing moves where sums are rounded."""


def _weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _processor(monkeypatch, fast: bool) -> None:
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: True)
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: fast, raising=False)


@pytest.fixture
def fast_in_bfloat16(monkeypatch):
    """A processor with instructions for bfloat16."""
    _processor(monkeypatch, fast=True)


class _Rounded(Strategy):
    """Full fine-tuning of float32 weights that begin at bfloat16 values."""

    def prepare_model(self, model):
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16().float()
        return model


def test_master_weights_are_trained_as_float32_weights_are(train_toy):
    """Bit for bit what float32 weights become in mixed precision, from the same values."""
    bfloat16 = train_toy(dtype="bfloat16", learning_rate=SMALL, steps=3)
    float32 = train_toy(strategy=_Rounded(), autocast="bf16", learning_rate=SMALL, steps=3)
    expected = _weights(float32.model)
    for name, trained in _weights(bfloat16.model).items():
        assert trained.dtype == torch.float32
        assert torch.equal(trained, expected[name])


def test_small_updates_move_every_master_weight(train_toy, toy_spec):
    before = _weights(load_backbone(toy_spec(dtype="bfloat16").model).model)
    loop = train_toy(
        dtype="bfloat16", learning_rate=SMALL, steps=2, tasks=["toy_first"], fresh_optimizer=False
    )
    after = _weights(loop.model)
    moved = sum(int((after[name] != before[name].float()).sum()) for name in before)
    assert moved > 0.99 * sum(weight.numel() for weight in before.values())
    assert loop._optimizer.state
    for state in loop._optimizer.state.values():
        assert {moment.dtype for moment in state.values()} == {torch.float32}


class TestAsSaved:
    def test_it_is_the_loaded_type_inside_and_bit_identical_afterwards(self, train_toy):
        loop = train_toy(dtype="bfloat16", steps=2)
        before, objects = _weights(loop.model), list(loop.model.parameters())
        batch = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
        with torch.no_grad():
            assert loop.model(**batch).logits.dtype == torch.float32  # accelerate's conversion
            with loop.precision.as_saved(loop.model):
                inside = loop.model(**batch).logits
                for name, weight in _weights(loop.model).items():
                    assert torch.equal(weight, before[name].bfloat16())
            assert loop.model(**batch).logits.dtype == torch.float32
        assert inside.dtype == torch.bfloat16
        assert objects
        assert all(a is b for a, b in zip(objects, loop.model.parameters(), strict=True))
        after = _weights(loop.model)
        assert all(torch.equal(after[name], before[name]) for name in before)
        assert all(after[name].dtype == torch.float32 for name in before)

    def test_an_error_while_scoring_leaves_the_masters(self, train_toy):
        loop = train_toy(dtype="bfloat16", steps=1)
        before = _weights(loop.model)
        with pytest.raises(ZeroDivisionError), loop.precision.as_saved(loop.model):
            raise ZeroDivisionError
        after = _weights(loop.model)
        assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": "bfloat16"},
        {"dtype": "bfloat16", "master_weights": "none"},
        {"autocast": "bf16"},
        {"dtype": "bfloat16", "strategy": "lora"},
    ],
    ids=["master weights", "stochastic rounding", "autocast", "lora"],
)
def test_the_scores_are_those_of_the_saved_model(run_toy, toy_spec, tmp_path, settings):
    """First and last row are what anyone measures who loads the model before and afterwards."""
    folder = tmp_path / "saved"
    record = run_toy(
        **settings, tasks=["toy_first"], steps=3, request={"save_model": folder}
    ).record
    spec = toy_spec(**settings, tasks=["toy_first"], steps=3)
    prepared = prepare_run(spec)
    task = prepared.tasks["toy_first"]
    evaluator = Evaluator({"toy_first": TaskEvaluator(task.task, task.test, prepared.encoder, 32)})
    for row, model in ((0, spec.model), (-1, spec.model.model_copy(update={"name": str(folder)}))):
        backbone = load_backbone(model)
        scores = evaluator.score(backbone.model)["toy_first"]
        assert record.score_matrix.values[row] == (pytest.approx(scores.mean),)
        assert {p.dtype for p in backbone.model.parameters()} == {getattr(torch, model.dtype)}
    found = record.secondary_scores["toy_first"]["reference_negative_log_likelihood"]
    assert found == scores.metrics["reference_negative_log_likelihood"]


class TestStochasticRounding:
    def _rounded(self, *values, copies=1):
        stored = torch.zeros(len(values) * copies, dtype=torch.bfloat16)
        given = torch.tensor(values * copies, dtype=torch.float32)
        round_stochastically(stored, given, torch.Generator().manual_seed(0))
        return stored.float()

    def test_it_is_right_on_average(self):
        """Between 1 and 1 + 1/128 lies 1 + 1/1024: up once in eight times."""
        for sign in (1.0, -1.0):
            rounded = self._rounded(sign * (1 + 1 / 1024), copies=40_000)
            assert set(rounded.tolist()) == {sign, sign * (1 + 1 / 128)}
            up = float((rounded != sign).float().mean())
            assert up == pytest.approx(1 / 8, abs=4 * (1 / 8 * 7 / 8 / 40_000) ** 0.5)

    def test_what_bfloat16_can_hold_stays(self):
        values = (0.0, -0.0, 1.0, -3.5, 2.0**-126, 2.0**-133, float("inf"), -float("inf"))
        assert self._rounded(*values).tolist() == list(values)
        assert torch.signbit(self._rounded(*values)[1])
        assert torch.isnan(self._rounded(float("nan"))).all()


class TestWithoutMasters:
    @pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor"])
    def test_a_step_is_the_float32_step_and_a_rounding(self, name):
        """Every weight lands on one of the two bfloat16 neighbours of the exact result."""
        generator = torch.Generator().manual_seed(0)
        values = [torch.randn(shape, generator=generator).bfloat16() for shape in ((64, 32), (32,))]
        half = [nn.Parameter(value.clone()) for value in values]
        exact = [nn.Parameter(value.float()) for value in values]
        spec = TrainingSpec(steps=1, optimizer=name, weight_decay=0.1)
        optimizers = [build_optimizer(p, spec, 1e-2) for p in (half, exact)]
        precision = WeightPrecision("none", seed=0)
        gradients = [torch.randn(v.shape, generator=generator).bfloat16() for v in values]
        for parameters in (half, exact):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.to(parameter.dtype)
        objects = [[id(p) for p in group["params"]] for group in optimizers[0].param_groups]
        precision.step(optimizers[0])
        optimizers[1].step()
        for rounded, wanted, gradient in zip(half, exact, gradients, strict=True):
            spacing = 2.0 ** (wanted.detach().abs().log2().floor() - 7)
            assert bool(((rounded.float() - wanted).abs() < spacing).all())
            assert not torch.equal(rounded.detach(), wanted.detach().bfloat16())  # not nearest
            assert rounded.dtype == torch.bfloat16
            assert torch.equal(rounded.grad, gradient)
        assert objects == [[id(p) for p in group["params"]] for group in optimizers[0].param_groups]
        kept = [value for state in optimizers[0].state.values() for value in state.values()]
        assert all(value.dtype == torch.float32 for value in kept if torch.is_tensor(value))

    def test_parameters_are_stepped_once_each_whatever_the_blocks(self, monkeypatch):
        monkeypatch.setattr("epi_bench.model.precision.BLOCK", 100)
        parameters = [nn.Parameter(torch.ones(60, dtype=torch.bfloat16)) for _ in range(5)]
        parameters.append(nn.Parameter(torch.ones(60)))
        optimizer = torch.optim.SGD(parameters, lr=0.5)
        for parameter in parameters[1:]:
            parameter.grad = torch.ones_like(parameter)
        WeightPrecision("none", seed=0).step(optimizer)
        assert [float(p.detach().mean()) for p in parameters] == [1.0, *[0.5] * 5]

    def test_the_second_moment_of_adam_decays(self):
        """``(1 - 0.999^200) 0.999^1000``; a moment in bfloat16 stays where it was."""
        weight = nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
        optimizer = torch.optim.AdamW([weight], lr=1e-6)
        precision = WeightPrecision("none", seed=0)
        for step in range(1200):
            weight.grad = torch.full_like(weight, float(step < 200))
            precision.step(optimizer)
        expected = (1 - 0.999**200) * 0.999**1000
        moment = optimizer.state[weight]["exp_avg_sq"]
        assert float(moment[0, 0]) == pytest.approx(expected, rel=1e-4)

    def test_small_updates_move_weights_as_far_as_in_float32_on_average(self):
        half = nn.Parameter(torch.ones(10_000, dtype=torch.bfloat16))
        optimizer = torch.optim.SGD([half], lr=1e-4)
        precision = WeightPrecision("none", seed=0)
        for _ in range(100):
            half.grad = torch.ones_like(half)
            precision.step(optimizer)
        # the spacing below 1 is 1/256: a weight has moved twice or thrice, or not at all
        assert float(half.detach().float().mean()) == pytest.approx(0.99, abs=3e-4)

    @pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adafactor"])
    def test_protected_weights_do_not_move(self, train_toy, witness, optimizer):
        from epi_bench.strategy.strategy import create_strategy

        strategy = create_strategy("epi", {"ratio": 0.4, "warmup": 1, "interval": 3})
        watching = []

        def on_step(step, rate):
            if watching:
                watching[0].check()
            else:
                watching.append(witness(strategy.isolation))

        train_toy(
            strategy=strategy,
            on_step=on_step,
            dtype="bfloat16",
            master_weights="none",
            optimizer=optimizer,
            learning_rate=0.3 if optimizer == "sgd" else 1e-2,
            steps=5,
            tasks=["toy_first"],
        )
        assert watching[0].steps == 4
        assert watching[0].checked > 0

    def test_two_trainings_are_bit_identical(self, train_toy):
        settings = {"dtype": "bfloat16", "master_weights": "none", "steps": 2}
        settings["tasks"] = ["toy_first"]
        first, second = _weights(train_toy(**settings).model), _weights(train_toy(**settings).model)
        assert all(torch.equal(first[name], second[name]) for name in first)
        other = _weights(train_toy(**settings, seed=1).model)
        assert not all(torch.equal(first[name], other[name]) for name in first)

    def test_float32_weights_have_no_such_choice(self):
        with pytest.raises(UserError, match=r"master_weights='none'.*set model\.dtype to bfloat16"):
            complete_spec({"training": {"master_weights": "none"}})

    def test_it_is_warned_of_and_part_of_the_identity(self, toy_spec, fast_in_bfloat16):
        default = toy_spec(dtype="bfloat16")
        spec = toy_spec(dtype="bfloat16", master_weights="none")
        assert any("stochastic rounding" in message for message in prepare_run(spec).warnings)
        assert prepare_run(default).warnings == []
        assert run_id(spec, {}) != run_id(default, {})
        assert run_id(toy_spec(dtype="bfloat16", master_weights="float32"), {}) == run_id(
            default, {}
        )


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"dtype": "bfloat16"}, "model.dtype to float32"),
        ({"dtype": "bfloat16", "master_weights": "none"}, "model.dtype to float32"),
        ({"autocast": "bf16"}, "training.autocast to none"),
        ({}, None),
    ],
)
def test_a_processor_that_is_slow_in_bfloat16_is_told_of(toy_spec, monkeypatch, settings, remedy):
    spec = toy_spec(**settings)
    _processor(monkeypatch, fast=False)
    told = [message for message in prepare_run(spec).warnings if "this processor" in message]
    assert [message.rsplit("set ", 1)[1] for message in told] == ([remedy] if remedy else [])
    _processor(monkeypatch, fast=True)
    assert not any("this processor" in message for message in prepare_run(spec).warnings)


def test_on_a_gpu_the_processor_does_not_matter(toy_spec, monkeypatch):
    _processor(monkeypatch, fast=False)
    monkeypatch.setattr(
        "epi_bench.runs.preparation.current_execution", lambda: Execution(device="cuda")
    )
    assert prepare_run(toy_spec(dtype="bfloat16")).warnings == []

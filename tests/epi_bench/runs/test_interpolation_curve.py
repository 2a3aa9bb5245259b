"""The WiSE-FT curve: its ends are the base model and the finished one, to the last bit."""

from __future__ import annotations

import pytest
import torch

from epi_bench.api.results import Results
from epi_bench.model.between_models import BetweenModels
from epi_bench.results.record.consistency import disagreements
from epi_bench.results.record.record_file import comparable
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.checkpoint_settings import CheckpointSettings
from epi_bench.runs.interpolation_curve import ALPHAS
from epi_bench.runs.launch import run_one
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.references import reference_spec
from epi_bench.runs.request import RunRequest
from epi_bench.testing import toy_model, train_toy

TASKS = ["toy_first", "toy_choice"]


@pytest.fixture
def with_curve(toy_spec, tmp_path):
    """Makes a toy run with the curve."""

    def run(
        strategy="full_sft", options=None, *, out=tmp_path, observer=None, request=None, **more
    ):
        spec = toy_spec(strategy, options, tasks=TASKS, steps=2, **more)
        evaluation = spec.evaluation.model_copy(update={"wise_ft_curve": True})
        spec = spec.model_copy(update={"evaluation": evaluation})
        made = RunRequest(Workspace(out), **(request or {}))
        return run_one(spec, made, observer or RunObserver()).record

    return run


def _weights(model):
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_ends_are_the_models_themselves(dtype, tied):
    from epi_bench.strategy.strategy import create_strategy

    base = toy_model(dtype=dtype, tied=tied)
    between = BetweenModels(base)
    before = _weights(base)
    model = train_toy(
        create_strategy("full_sft", {}),
        model=base,
        training={"master_weights": "none" if dtype == "bfloat16" else "float32"},
    )
    after = _weights(model)
    assert between.fits(model)
    for alpha, expected in ((0.0, before), (1.0, after)):
        with between.at(model, alpha):
            for parameter, weight in zip(model.parameters(), expected, strict=True):
                assert torch.equal(parameter, weight)
                assert parameter.dtype == weight.dtype
    with between.at(model, 0.5):
        embeddings = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
        assert (embeddings[0].data_ptr() == embeddings[1].data_ptr()) == tied
        half = (before[0].float() + after[0].float()) / 2
        assert torch.allclose(model.get_input_embeddings().weight.float(), half, rtol=1e-2)
    for parameter, weight in zip(model.parameters(), after, strict=True):
        assert torch.equal(parameter, weight)


def test_weights_come_back_after_an_error():
    model = toy_model()
    before = _weights(model)
    between = BetweenModels(model)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    after = _weights(model)
    with pytest.raises(ZeroDivisionError), between.at(model, 0.3):
        raise ZeroDivisionError
    assert not torch.equal(before[0], after[0])
    assert all(torch.equal(a, b) for a, b in zip(_weights(model), after, strict=True))


def test_a_model_with_other_parameters_does_not_fit():
    assert not BetweenModels(toy_model(tied=True)).fits(toy_model(tied=False))


def test_a_run_has_the_curve_of_all_its_tasks(with_curve):
    record = with_curve(eval_tasks=["toy_second"])
    curve = record.wise_ft
    assert curve.tasks == (*TASKS, "toy_second")
    assert [point.alpha for point in curve.points] == list(ALPHAS)
    assert curve.points[0].values[:2] == record.score_matrix.values[0]
    assert curve.points[-1].values[:2] == record.score_matrix.values[-1]
    assert curve.points[-1].values[2:] == record.eval_scores.values[-1]
    assert curve.points[0].nll == record.retention.nll_before
    assert curve.points[-1].nll == record.retention.nll_after
    assert len({point.nll for point in curve.points}) == len(ALPHAS)
    assert disagreements(record) == []
    frame = Results((record,)).to_frame("wise_ft")
    assert len(frame) == 11 * 3
    assert set(frame[~frame["trained"]]["task"]) == {"toy_second"}
    last = frame[(frame["alpha"] == 1) & (frame["task"] == "toy_choice")]["score"].item()
    assert last == record.final_scores["toy_choice"]


def test_every_other_number_is_that_of_a_run_without(with_curve, run_toy):
    with_it, without = (
        comparable(record) for record in (with_curve(), run_toy(tasks=TASKS, steps=2).record)
    )
    assert with_it.pop("wise_ft") is not None
    assert without.pop("wise_ft") is None
    for record in (with_it, without):
        record.pop("run_id")
        record["spec"].pop("evaluation")
    assert with_it == without


def test_of_an_adapter_it_is_the_adapter_scaled(with_curve):
    """Half the way to the merged model is the model with half the adapter."""
    from peft.tuners.lora import LoraLayer

    from epi_bench.strategy.strategy import create_strategy
    from epi_bench.testing.toys import own_numerics, toy_loop, toy_tasks

    assert len(with_curve("lora").wise_ft.points) == 11
    strategy = create_strategy("lora", {})
    ids = torch.tensor([[2, 4, 12, 3]])
    with own_numerics():
        base = toy_model()
        between = BetweenModels(base)
        loop = toy_loop(strategy, model=base)
        loop.train(toy_tasks()[0])
        layers = [m for m in loop.model.modules() if isinstance(m, LoraLayer)]
        for layer in layers:
            layer.scale_layer(0.5)
        with torch.no_grad():
            scaled = loop.model(input_ids=ids).logits
        for layer in layers:
            layer.unscale_layer(0.5)
        finished = strategy.finalize_model(loop.model)
        with torch.no_grad(), between.at(finished, 0.5):
            halfway = finished(input_ids=ids).logits
    assert torch.allclose(halfway, scaled, atol=1e-6)


def test_an_interrupted_curve_goes_on(with_curve, tmp_path):
    class Stop(RunObserver):
        def stage(self, name):
            if name == "scoring at alpha 0.3":
                raise KeyboardInterrupt

    class Listen(RunObserver):
        def __init__(self):
            self.stages = []

        def stage(self, name):
            self.stages.append(name)

    request = {"checkpoints": CheckpointSettings(every_steps=1)}
    with pytest.raises(KeyboardInterrupt):
        with_curve(observer=Stop(), request=request)
    listener = Listen()
    resumed = with_curve(observer=listener, request=request)
    assert resumed.environment.resumed == 1
    scored = [stage for stage in listener.stages if "alpha" in stage]
    assert scored == [f"scoring at alpha 0.{tenth}" for tenth in range(3, 10)]
    assert comparable(resumed) == comparable(with_curve(out=tmp_path / "whole"))


def test_a_curve_that_contradicts_the_record_is_found(with_curve):
    content = with_curve().model_dump(mode="json")
    points = content["wise_ft"]["points"]
    for change, field in [
        ({"points": points[1:]}, "wise_ft.points"),
        ({"points": [{**points[0], "values": [1.0, 1.0]}, *points[1:]]}, "wise_ft.points.0"),
        ({"points": [*points[:-1], {**points[-1], "values": [1.0, 1.0]}]}, "wise_ft.points.1"),
        ({"tasks": ["x", "y"]}, "wise_ft.tasks"),
    ]:
        changed = {**content, "wise_ft": {**content["wise_ft"], **change}}
        found = [d.field for d in disagreements(RunRecord.model_validate(changed))]
        assert field in found


def test_a_single_task_reference_has_no_curve(toy_spec):
    spec = toy_spec()
    evaluation = spec.evaluation.model_copy(update={"wise_ft_curve": True})
    asked = spec.model_copy(update={"evaluation": evaluation})
    assert reference_spec(asked, "toy_first") == reference_spec(spec, "toy_first")

"""How far a run took its model from the base: measured in every run, in no other number."""

from __future__ import annotations

import pytest

from epi_bench.results.record.consistency import disagreements
from epi_bench.results.record.record_file import comparable
from epi_bench.results.record.run_record import RunRecord
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.checkpoint_settings import CheckpointSettings
from epi_bench.runs.launch import run_one
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.request import RunRequest


def test_each_row_has_it_on_the_tasks_that_were_trained_for_it(run_toy):
    record = run_toy(tasks=["toy_first", "toy_choice"]).record
    points = record.kl_to_base.points
    assert [(p.row, p.tasks) for p in points] == [
        ("toy_first", ("toy_first",)),
        ("toy_choice", ("toy_choice",)),
    ]
    assert all(point.nats > 0 for point in points)
    assert record.kl_to_base.examples == 32  # of 14 test examples
    assert record.metrics["kl_to_base"] == points[-1].nats
    assert disagreements(record) == []


def test_a_row_in_the_middle_of_a_mixture_has_it_on_all_its_tasks(run_toy):
    record = run_toy(stream={"kind": "mixed"}).record
    points = record.kl_to_base.points
    assert [point.row for point in points] == list(record.score_matrix.rows[1:])
    assert {point.tasks for point in points} == {("toy_first", "toy_second")}


def test_a_model_that_is_not_trained_stays_at_the_base(run_toy):
    record = run_toy(learning_rate=1e-30).record
    assert [point.nats for point in record.kl_to_base.points] == [0.0, 0.0]


def test_without_it_every_other_number_is_the_same(toy_spec, run_toy, tmp_path):
    spec = toy_spec("epi")
    evaluation = spec.evaluation.model_copy(update={"kl_examples": 0})
    off = spec.model_copy(update={"evaluation": evaluation})
    with_it, without = (
        comparable(run_one(s, RunRequest(Workspace(tmp_path)), RunObserver()).record)
        for s in (spec, off)
    )
    assert without.pop("kl_to_base") is None
    assert with_it.pop("kl_to_base") is not None
    assert "kl_to_base" not in without["metrics"]
    del with_it["metrics"]["kl_to_base"]
    for record in (with_it, without):
        record.pop("run_id")
        record["spec"].pop("evaluation")
    assert with_it == without


@pytest.mark.parametrize("row", ["base", "toy_first"])
def test_a_resumed_run_compares_with_the_same_base(run_toy, tmp_path, row):
    class Stop(RunObserver):
        def scored(self, name, scores):
            if name == row:
                raise KeyboardInterrupt

    request = {"checkpoints": CheckpointSettings(every_steps=1)}
    with pytest.raises(KeyboardInterrupt):
        run_toy(observer=Stop(), request=request)
    resumed = run_toy(request=request).record
    assert resumed.environment.resumed == 1
    assert resumed.kl_to_base == run_toy(out=tmp_path / "whole").record.kl_to_base


def test_a_record_that_contradicts_itself_is_found(run_toy):
    content = run_toy().record.model_dump(mode="json")
    points = content["kl_to_base"]["points"]
    for change, field in [
        ({"points": points[:1]}, "kl_to_base.points"),
        ({"points": [points[0], {**points[1], "nats": -1.0}]}, "kl_to_base.toy_second"),
        ({"points": [{**points[0], "tasks": ["x"]}, points[1]]}, "kl_to_base.toy_first.tasks"),
        ({"points": [points[0], {**points[1], "nats": 9.0}]}, "metrics.kl_to_base"),
        ({"examples": 3}, "kl_to_base.examples"),
    ]:
        changed = {**content, "kl_to_base": {**content["kl_to_base"], **change}}
        found = [d.field for d in disagreements(RunRecord.model_validate(changed))]
        assert field in found

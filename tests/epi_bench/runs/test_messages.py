"""Runs in processes of their own: nothing of an order or an outcome is lost, all is reported."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from epi_bench.evaluation.judge import JudgeSettings
from epi_bench.results.record.record_file import comparable, load_record
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.checkpoint_settings import CheckpointSettings
from epi_bench.runs.launch import reusable
from epi_bench.runs.local_processes import LocalProcesses
from epi_bench.runs.many_runs import run_on_backend
from epi_bench.runs.messages import (
    EVENTS,
    event_writer,
    outcome_from_json,
    outcome_to_json,
    pass_on,
)
from epi_bench.runs.observer import RunObserver, StepReport
from epi_bench.runs.order import Order, order_from_json
from epi_bench.runs.request import RunOutcome, RunRequest
from epi_bench.runs.saving import KeepModel
from epi_bench.spec.run_spec import RunSpec


def unlike_default(field: dataclasses.Field):
    """A value that a field of a request does not have by itself."""
    values = {
        "workspace": Workspace(Path("out")),
        "data_dir": Path("data"),
        "plugins": (Path("a.py"),),
        "task_files": (Path("t.toml"),),
        "save_model": Path("model"),
        "lm_eval_path": Path("tasks"),
        "keep_model": KeepModel.EVERY_EXPERIENCE,
        "judge": JudgeSettings("http://h/v1", "m", Path("p.toml"), 60),
        "checkpoints": CheckpointSettings(every_steps=7, kept=2),
    }
    return values.get(field.name, field.default is False)


def test_an_order_arrives_whole(toy_spec):
    fields = dataclasses.fields(RunRequest)
    request = RunRequest(**{field.name: unlike_default(field) for field in fields})
    assert all(
        getattr(request, f.name) != f.default for f in fields
    )  # so that a dropped field would be seen
    order = Order(toy_spec("epi", {"ratio": 0.3}, seed=3), request)
    assert order_from_json(order.to_json()) == order


def test_threads_that_are_left_to_torch_stay_so(toy_spec):
    content = toy_spec().model_dump()
    spec = RunSpec.model_validate({**content, "threads": None, "model": {"name": "tiny"}})
    order = Order(spec, RunRequest(Workspace(Path())))
    assert order_from_json(order.to_json()).spec == spec
    assert order_from_json(order.to_json()).spec.threads is None


def test_an_outcome_arrives_whole(make_run):
    record = make_run("epi", (61.3, 70.0), options={"ratio": 0.1}, references=(80.0, 90.5))
    for outcome in (
        RunOutcome(record.spec, record, Path("runs/x/record.json"), skipped=True),
        RunOutcome(record.spec, None, error="cannot start", settings=("training.steps",)),
        RunOutcome(record.spec, None, busy="process 7 on host"),
        RunOutcome(record.spec, record, unsaved=("the disk is full",)),
    ):
        sent = json.loads(json.dumps(outcome_to_json(outcome)))
        assert outcome_from_json(sent) == outcome


def test_every_event_reaches_the_observer_as_it_was_said():
    report = StepReport(3, 10, "a", 0, 2, 0.1 + 0.2, 1e-3)
    said = {
        "run_started": ("id", "title", 10, ["a", "b"]),
        "warning": ("careful",),
        "note": ("by the way",),
        "resumed": (7, "experience a"),
        "checkpoint_saved": (7, 1024, 0.5),
        "stage": ("scoring",),
        "preparing": ("encoding a", 1, 2),
        "step_done": (report,),
        "step_skipped": (3, "a"),
        "scored": ("base", {"a": 1 / 3}),
        "diagnostics": (3, {"x": float("inf")}),
        "run_ended": ("finished", None),
    }
    assert set(said) == set(EVENTS)
    written, heard = [], []
    writer, listener = event_writer(written.append), RunObserver()
    for name, arguments in said.items():
        setattr(listener, name, lambda *given, name=name: heard.append((name, given)))
        getattr(writer, name)(*arguments)
    for event in written:
        pass_on(json.loads(json.dumps(event)), listener)
    assert heard == list(said.items())


class Listener(RunObserver):
    def __init__(self, title, heard):
        self.title, self.heard = title, heard

    def for_run(self, title):
        return Listener(title, self.heard)

    def run_started(self, run_id, title, total_steps, tasks):
        self.heard.append((self.title, "started"))

    def run_ended(self, status, error):
        self.heard.append((self.title, status))


@pytest.mark.multi_process
def test_references_and_runs_are_reported_as_they_start_and_end(
    toy_spec, toy_tasks, tmp_path, run_toy
):
    """One reference and two runs; the records are those that this process would make."""
    specs = [
        toy_spec(strategy, tasks=["toy_first"], seed=1, steps=2) for strategy in ("full_sft", "epi")
    ]
    request = RunRequest(Workspace(tmp_path / "out"), plugins=(toy_tasks,), references=True)
    heard = []
    outcomes = list(run_on_backend(specs, request, LocalProcesses(2), Listener("all", heard)))
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert heard[:2] == [
        ("reference of toy_first", "started"),
        ("reference of toy_first", "finished"),
    ]
    runs = {("full_sft, seed 1", "started"), ("full_sft, seed 1", "finished"),
            ("epi, seed 1", "started"), ("epi, seed 1", "finished")}  # fmt: skip
    assert set(heard[2:]) == runs
    assert len(heard) == 6
    for outcome in outcomes:
        assert outcome.record == load_record(outcome.path)
        assert outcome.record.reference_scores is not None
        strategy = outcome.spec.strategy.name
        own = run_toy(strategy, tasks=["toy_first"], seed=1, steps=2, out=tmp_path / "own").record
        theirs = comparable(outcome.record)
        alone = {"reference_scores": None, "metrics": own.metrics}  # without the reference
        assert {**theirs, **alone} == {**comparable(own), **alone}


def test_what_a_finished_record_answers(make_run, tmp_path):
    record = make_run()
    workspace = Workspace(tmp_path)
    plain = RunRequest(workspace)
    assert reusable(record, plain)
    assert reusable(record, dataclasses.replace(plain, references=True, published=False))
    assert not reusable(record, dataclasses.replace(plain, force=True))
    assert not reusable(record, dataclasses.replace(plain, save_model=tmp_path / "model"))
    judged = dataclasses.replace(plain, judge=JudgeSettings("http://h/v1", "m"))
    assert not reusable(record, judged)
    logged = dataclasses.replace(plain, log_predictions=True)
    assert not reusable(record, logged)
    path = workspace.predictions_path(record.run_id)
    path.parent.mkdir(parents=True)
    path.write_text("")
    assert reusable(record, logged)

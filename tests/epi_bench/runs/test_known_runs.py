"""Runs that were made before are found, cheaply, and answer only what they can answer."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from epi_bench.results.record.record_file import save_record
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.known_runs import KnownRuns
from epi_bench.runs.launch import run_one
from epi_bench.runs.local_processes import LocalProcesses
from epi_bench.runs.many_runs import make_runs, run_in_process, run_on_backend
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.preparation import prepare_run
from epi_bench.runs.request import RunOutcome, RunRequest
from epi_bench.runs.run_lock import RunBusyError
from epi_bench.spec.defaults import complete_spec


def never(*arguments, **keywords):
    raise AssertionError("this must not be asked for")


@pytest.fixture
def made(run_toy, tmp_path):
    """A finished run."""
    return run_toy("full_sft", steps=2, out=tmp_path / "out")


def test_a_finished_run_is_found_without_preparing_it(made, tmp_path, monkeypatch, toy_tasks):
    monkeypatch.setattr("epi_bench.runs.preparation.prepare_run", never)
    monkeypatch.setattr("epi_bench.runs.local_processes.LocalProcesses._start", never)
    request = RunRequest(Workspace(tmp_path / "out"), plugins=(toy_tasks,))
    shutil.rmtree(request.workspace.board)
    expected = dataclasses.replace(made, skipped=True)
    assert KnownRuns(request).find(made.spec) == expected
    assert len(list(request.workspace.board.rglob("*.json"))) == 1  # published, as if made now
    for backend in (None, LocalProcesses(2)):
        assert list(make_runs([made.spec], request, backend, RunObserver())) == [expected]


def test_it_answers_only_what_it_can_answer(made, tmp_path, toy_spec):
    request = RunRequest(Workspace(tmp_path / "out"))
    for change in ({"force": True}, {"references": True}, {"log_predictions": True}):
        assert KnownRuns(dataclasses.replace(request, **change)).find(made.spec) is None
    assert KnownRuns(request).find(toy_spec("full_sft", steps=2, seed=1)) is None
    assert KnownRuns(request).find(toy_spec("full_sft", steps=3)) is None
    made.path.write_text("{", encoding="utf-8")  # whoever makes the run says so
    assert KnownRuns(request).find(made.spec) is None


def test_a_run_that_failed_is_made_again_only_if_that_is_asked_for(made, tmp_path):
    failed = made.record.model_copy(
        update={"status": "failed", "error": "RuntimeError: broken", "score_matrix": None}
    )
    failed = failed.model_copy(update={"metrics": {}, "secondary_scores": {}, "confusion": {}})
    save_record(failed, made.path)
    request = RunRequest(Workspace(tmp_path / "out"))
    shutil.rmtree(request.workspace.board)
    found = KnownRuns(request).find(made.spec)
    assert found.skipped
    assert not found.succeeded
    assert found.reason == "RuntimeError: broken"
    assert not request.workspace.board.exists()
    assert run_one(made.spec, request, RunObserver()) == found
    again = dataclasses.replace(request, retry_failed=True)
    assert KnownRuns(again).find(made.spec) is None
    outcome = run_one(made.spec, again, RunObserver())
    assert outcome.succeeded
    assert not outcome.skipped


@pytest.mark.parametrize("values", [
    {"data": {"tasks": ["mini_math", "mini_chat"], "train_examples": 20}},
    {"strategy": {"name": "epi"}, "data": {"tasks": ["mini_math"]}, "stream": {"kind": "mixed"}},
])  # fmt: skip
def test_the_identity_is_that_of_the_preparation(values, make_run, tmp_path, monkeypatch):
    spec = complete_spec(values)
    prepared = prepare_run(spec)
    asked = []
    monkeypatch.setattr(
        "epi_bench.runs.known_runs.known_record", lambda run_id, *_: asked.append(run_id)
    )
    workspace = Workspace(tmp_path)
    save_record(make_run(), workspace.record_path("another"))
    assert KnownRuns(RunRequest(workspace)).find(spec) is None
    assert asked == [prepared.run_id]


def test_models_and_tasks_are_read_once_and_not_at_all_where_nothing_is(
    toy_spec, make_run, tmp_path, monkeypatch
):
    from epi_bench.runs import known_runs

    read = []
    real = known_runs.create_task
    monkeypatch.setattr(
        known_runs, "create_task", lambda name, *given: read.append(name) or real(name, *given)
    )
    known = KnownRuns(RunRequest(Workspace(tmp_path)))
    specs = [toy_spec(strategy, seed=seed) for strategy in ("full_sft", "epi") for seed in (0, 1)]
    assert [known.find(spec) for spec in specs] == [None] * 4
    assert read == []
    save_record(make_run(), Workspace(tmp_path).record_path("another"))
    assert [known.find(spec) for spec in specs] == [None] * 4
    assert sorted(read) == ["toy_first", "toy_second"]


def test_what_another_process_has_made_meanwhile_is_not_made_anew(
    made, tmp_path, monkeypatch, toy_spec
):
    """The lock is free again when the other one's record is there."""
    saved = made.path.read_text(encoding="utf-8")

    def request_with(force):
        made.path.unlink()
        return RunRequest(Workspace(tmp_path / "out"), force=force)

    @contextmanager
    def waited(folder, on_wait):
        made.path.write_text(saved, encoding="utf-8")
        yield True

    monkeypatch.setattr("epi_bench.runs.launch.own_run", waited)
    monkeypatch.setattr("epi_bench.runs.experiment.Experiment.run", never)
    for force in (False, True):
        outcome = run_one(made.spec, request_with(force), RunObserver())
        assert outcome == dataclasses.replace(made, skipped=True)


class Busy:
    """Makes every run but that of seed 0, which is another process's until it is waited for."""

    def __init__(self):
        self.asked = []

    runs_at_a_time = 2

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def run(self, orders):
        for position, order in enumerate(orders):
            self.asked.append((order.spec.seed, order.request.wait, order.request.force))
            busy = order.spec.seed == 0 and not order.request.wait
            yield position, RunOutcome(order.spec, None, busy="process 7" if busy else None)

    def run_one(self, spec, request, observer):
        self.asked.append((spec.seed, request.wait, request.force))
        if spec.seed == 0 and not request.wait:
            raise RunBusyError(Path("abc"), "process 7")
        return RunOutcome(spec, None)


@pytest.mark.parametrize("where", ["here", "backend"])
def test_a_busy_run_comes_last_and_is_waited_for(where, monkeypatch, tmp_path):
    specs = [complete_spec({"seed": seed}) for seed in (0, 1, 2)]
    request = RunRequest(Workspace(tmp_path), force=True)
    busy = Busy()
    monkeypatch.setattr("epi_bench.runs.many_runs.run_one", busy.run_one)
    if where == "here":
        outcomes = list(run_in_process(specs, request, RunObserver()))
    else:
        outcomes = list(run_on_backend(specs, request, busy))
    assert [outcome.spec.seed for outcome in outcomes] == [1, 2, 0]
    assert all(outcome.busy is None for outcome in outcomes)
    assert busy.asked == [(0, False, True), (1, False, True), (2, False, True), (0, True, False)]

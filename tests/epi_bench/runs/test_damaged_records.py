"""Damaged records: one's own is set aside, that of a reference passed over; none blocks a run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from epi_bench.errors import UserError
from epi_bench.results.record.record_file import comparable, load_record
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.many_runs import run_in_process
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.request import RunRequest


class Listener(RunObserver):
    def __init__(self):
        self.warnings = []

    def warning(self, message):
        self.warnings.append(message)


@pytest.fixture(scope="module")
def finished(toy_model, toy_tasks, tmp_path_factory):
    """Folder of a finished run."""
    return tmp_path_factory.mktemp("finished")


def better(text):
    """The same record with a metric that nothing gave."""
    record = json.loads(text)
    record["metrics"]["average_accuracy"] = 99.9
    return json.dumps(record)


DAMAGE = {
    "truncated": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "not JSON": lambda text: "\0" * len(text),
    "contradicting itself": better,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("force", [False, True])
def test_a_damaged_record_of_ones_own_is_set_aside_and_made_again(
    damage, force, run_toy, finished, tmp_path
):
    if not list(finished.iterdir()):
        run_toy(steps=1, out=finished)
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    [path] = tmp_path.glob("runs/*/record.json")
    good = path.read_text()
    path.write_text(DAMAGE[damage](good))
    listener = Listener()
    outcome = run_toy(steps=1, observer=listener, request={"force": force})
    assert not outcome.skipped
    assert comparable(outcome.record) == comparable(
        load_record(finished / path.relative_to(tmp_path))
    )
    aside = path.with_name("record.damaged.json")
    assert aside.read_text() == DAMAGE[damage](good)
    [warning] = [line for line in listener.warnings if str(path) in line]
    assert "the file is now record.damaged.json, and the run is made again" in warning
    again = Listener()
    assert run_toy(steps=1, observer=again).skipped
    assert not again.warnings


def test_a_record_of_a_newer_version_is_not_set_aside(run_toy, finished, tmp_path):
    if not list(finished.iterdir()):
        run_toy(steps=1, out=finished)
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    [path] = tmp_path.glob("runs/*/record.json")
    newer = {**json.loads(path.read_text()), "schema_version": 999}
    path.write_text(json.dumps(newer))
    with pytest.raises(UserError, match="upgrade epi-bench"):
        run_toy(steps=1)
    assert json.loads(path.read_text()) == newer


def test_a_damaged_reference_blocks_no_run_beside_it(toy_spec, tmp_path):
    spec = toy_spec(steps=1, tasks=["toy_choice", "toy_first"])
    request = RunRequest(Workspace(tmp_path), references=True)
    [first] = run_in_process([spec], request, RunObserver())
    assert first.record.reference_scores
    references = [p for p in tmp_path.glob("runs/*/record.json") if p != first.path]
    assert len(references) == 2
    references[0].write_text("{")

    listener = Listener()
    again = replace(request, references=False, force=True)
    [outcome] = run_in_process([spec], again, listener)
    assert outcome.succeeded
    assert outcome.record.reference_scores is None
    [warning] = [line for line in listener.warnings if str(references[0]) in line]
    assert "is left out until it is trained again with the argument references" in warning

    listener = Listener()
    [outcome] = run_in_process([spec], request, listener)
    assert outcome.record.reference_scores == first.record.reference_scores
    assert references[0].with_name("record.damaged.json").read_text() == "{"


def test_a_reference_that_cannot_be_made_blocks_no_run(toy_spec, tmp_path, monkeypatch):
    from epi_bench.runs import many_runs

    spec = toy_spec(steps=1, tasks=["toy_choice", "toy_first"])
    make = many_runs.run_one

    def refuse_references(asked, request, observer):
        if len(asked.data.tasks) == 1:
            raise UserError("its record cannot be read")
        return make(asked, request, observer)

    monkeypatch.setattr(many_runs, "run_one", refuse_references)
    listener = Listener()
    request = RunRequest(Workspace(tmp_path), references=True)
    [outcome] = run_in_process([spec], request, listener)
    assert outcome.succeeded
    failed = [line for line in listener.warnings if "failed, so the metrics that need it" in line]
    assert len(failed) == 2

"""``leaderboard validate``: file, field, what is written and what follows."""

from __future__ import annotations

import csv
import io
import json
import os

import pytest
from typer.testing import CliRunner

from epi_bench.cli.leaderboard import leaderboard_app
from epi_bench.errors import UserError
from epi_bench.results.record.record_file import save_record


@pytest.fixture
def call():
    return lambda *words: CliRunner().invoke(leaderboard_app, ["validate", *map(str, words)])


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_board_without_fault(call, board, monkeypatch):
    result = call(board)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"7 record(s) in {board}: nothing is wrong\n"
    assert call(board, "--format", "json").stdout == "[]\n"
    monkeypatch.chdir(board.parent)
    board.rename(board.parent / "results")
    assert "7 record(s) in results" in call().stderr


def test_what_is_wrong_is_told_field_by_field(call, board, make_run):
    run = make_run(seed=1, scores=(61, 80), references=(75, 85))
    path = board / run.track.name / f"{run.run_id}.json"
    rewrite(path, lambda c: c["metrics"].update(average_accuracy=99.9, forgetting=None))
    result = call(path.parent, "--format", "csv")
    assert result.exit_code == 1
    # (61 + 80) / 2; task a fell from 70 to 61
    assert list(csv.reader(io.StringIO(result.stdout))) == [
        ["file", "field", "written", "recomputed", "problem"],
        [str(path), "metrics.average_accuracy", "99.9", "70.5",
         "contradicts the rest of the record"],
        [str(path), "metrics.forgetting", "undefined", "9", "contradicts the rest of the record"],
    ]  # fmt: skip
    assert f"6 record(s) in {path.parent}: 1 of them wrong" in result.stderr
    for kind in ("table", "markdown", "json"):
        shown = call(board, "--format", kind)
        assert shown.exit_code == 1
        assert "99.9" in shown.stdout
        assert "70.5" in shown.stdout
        assert path.name in shown.stdout


def test_every_field_that_is_not_as_the_schema_says(call, board, make_run):
    path = next((board / make_run().track.name).glob("*.json"))
    rewrite(path, lambda c: (c["cost"].update(training_seconds="long"), c.pop("task_order")))
    found = json.loads(call(path, "--format", "json").stdout)
    assert [(f["field"], f["written"], f["problem"]) for f in found] == [
        ("task_order", "missing", "not as the schema says"),
        ("cost.training_seconds", "'long'", "not as the schema says"),
    ]
    assert "valid number" in found[1]["recomputed"]


def test_files_that_are_wrong_as_a_whole(call, board, board_runs):
    folder = board / board_runs[0].track.name
    (folder / "empty.json").write_text("")
    os.mkfifo(folder / "pipe.json")
    (folder / "copy.json").write_bytes((folder / f"{board_runs[0].run_id}.json").read_bytes())
    found = json.loads(call(board, "--format", "json").stdout)
    assert [(f["file"], f["field"], f["problem"]) for f in found] == [
        (str(folder / "copy.json"), "",
         f"is misplaced: its content belongs to {folder.name}/{board_runs[0].run_id}.json, "
         "where the same run lies already"),
        (str(folder / "empty.json"), "",
         "not a JSON file: Expecting value: line 1 column 1 (char 0)"),
        (str(folder / "pipe.json"), "", "not a file"),
    ]  # fmt: skip


def test_a_folder_of_runs_may_hold_failed_ones(call, make_run, tmp_path):
    failed = make_run("ewc", status="failed", error="no", score_matrix=None, metrics={}, cost=None)
    for record in (make_run(), failed):
        save_record(record, tmp_path / record.run_id / "record.json")
    assert call(tmp_path).exit_code == 0
    save_record(make_run(), tmp_path / "copy" / "record.json")
    found = json.loads(call(tmp_path, "--format", "json").stdout)
    assert [f["problem"] for f in found] == [
        f"is of run {make_run().run_id}, as {tmp_path / make_run().run_id / 'record.json'} is"
    ]
    rewrite(tmp_path / failed.run_id / "record.json", lambda c: c.update(run_id="x"))
    assert "run_id" in call(tmp_path).stdout
    assert call(tmp_path / make_run().run_id).exit_code == 0


def test_nothing_to_check_is_a_user_error(call, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        error = call(folder).exception
        assert isinstance(error, UserError)
        assert f"no records in {folder}" in str(error)

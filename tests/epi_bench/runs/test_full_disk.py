"""A disk that refuses: before the training it is an error, afterwards the record comes first."""

from __future__ import annotations

import errno
import json

import pytest

from epi_bench.errors import UserError
from epi_bench.evaluation import prediction_log
from epi_bench.results.record.record_file import load_record
from epi_bench.results.record.workspace import Workspace, require_writable
from epi_bench.runs import launch
from epi_bench.runs.observer import EventLog, RunObserver


class Listener(RunObserver):
    def __init__(self):
        self.warnings = []

    def warning(self, message):
        self.warnings.append(message)


def test_predictions_that_cannot_be_written_cost_no_record(run_toy, monkeypatch):
    def refuse(path, content):
        raise UserError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(prediction_log, "write_atomically", refuse)
    listener = Listener()
    outcome = run_toy(steps=1, request={"log_predictions": True}, observer=listener)
    assert load_record(outcome.path).status == "finished"
    [problem] = outcome.unsaved
    assert problem.startswith("the predictions are missing: cannot write ")
    assert problem in listener.warnings


def test_a_board_that_cannot_be_written_costs_no_record(run_toy, tmp_path):
    Workspace(tmp_path).board.touch()
    outcome = run_toy(steps=1)
    assert load_record(outcome.path).status == "finished"
    [problem] = outcome.unsaved
    assert problem.startswith("the record is not on the board: cannot write ")
    Workspace(tmp_path).board.unlink()
    again = run_toy(steps=1)
    assert again.skipped
    assert not again.unsaved
    assert list(Workspace(tmp_path).board.glob("*/*.json"))


def test_a_folder_that_is_removed_meanwhile_comes_back_with_the_record(run_toy, tmp_path):
    import shutil

    class Removing(RunObserver):
        def scored(self, row, scores):
            if row == "base":
                shutil.rmtree(tmp_path / "runs")

    outcome = run_toy(steps=1, observer=Removing(), request={"log_predictions": True})
    assert load_record(outcome.path).status == "finished"
    assert not outcome.unsaved


class FailingFile:
    def __init__(self):
        self.lines = []

    def write(self, text):
        if self.lines:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.lines.append(text)

    def flush(self):
        pass

    def close(self):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_that_cannot_be_written_ends_there(tmp_path):
    told = []
    log = EventLog(tmp_path / "events.jsonl", 1, warn=told.append)
    log._file.close()
    log._file = file = FailingFile()
    log.warning("first")
    log.warning("second")
    log.warning("third")
    log.run_ended("finished", None)
    assert [json.loads(line)["message"] for line in file.lines] == ["first"]
    assert told == [f"the log {tmp_path / 'events.jsonl'} ends here: No space left on device"]


def test_a_record_that_cannot_be_written_leaves_the_old_one(run_toy, monkeypatch):
    outcome = run_toy(steps=1)
    before = outcome.path.read_bytes()

    def refuse(record, path):
        raise UserError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(launch, "publish", lambda record, board: None)
    monkeypatch.setattr("epi_bench.runs.experiment.save_record", refuse)
    with pytest.raises(UserError, match="No space left on device"):
        run_toy(steps=1, request={"force": True})
    assert outcome.path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("n" * 300, "File name too long"),
        ("a/" + "n" * 300 + "/b", "File name too long"),
        ("/".join(["n" * 200] * 25), "path too long"),
        ("file", "not a folder"),
        ("file/a", "not a folder"),
        ("dangling", "not a folder"),
        ("loop", "not a folder"),
    ],
)
def test_a_folder_that_cannot_be_made_is_refused_before_the_training(name, told, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=rf"cannot write the model to .*{told}; choose another"):
        require_writable(tmp_path / name, "the model", "save_model")
    assert sorted(tmp_path.iterdir()) == before
    require_writable(tmp_path / "new" / "folder", "the model", "save_model")
    assert not (tmp_path / "new").exists()


def test_a_limit_of_the_size_of_files_is_found_before_the_training(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
        with pytest.raises(UserError, match=r"cannot write results to .*: File too large"):
            Workspace(tmp_path).check_writable()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

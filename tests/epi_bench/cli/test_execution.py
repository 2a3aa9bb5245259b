"""Exit codes of runs, and what is said of their models."""

from __future__ import annotations

import errno
import sys

import pytest

from epi_bench.cli.app import main
from epi_bench.runs import saving


@pytest.fixture
def call_run(monkeypatch, capsys, tmp_path, toy_model, toy_tasks):
    small = ["--model", toy_model, "--plugin", toy_tasks, "--tasks", "toy_choice,toy_first",
             "--steps", 1, "--batch-size", 2, "--max-length", 64, "--out", tmp_path]  # fmt: skip

    def call(*arguments):
        command = ["epi-bench", "run", "--strategy", "full_sft", *small, *arguments]
        monkeypatch.setattr(sys, "argv", [*map(str, command)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return call


def test_each_run_of_a_sweep_keeps_its_models(call_run, tmp_path):
    code, out, _ = call_run("--seeds", 2, "--keep-model", "every-experience")
    assert code == 0
    kept = sorted(tmp_path.glob("runs/*/models/*"))
    assert [path.name for path in kept] == ["01-toy_choice", "final"] * 2
    size = sum(path.stat().st_size for path in tmp_path.glob("runs/*/models/*/*"))
    assert f"Models: {tmp_path}/runs/*/models ({size / 2**20:.1f} MB)" in out


@pytest.mark.parametrize("quiet", [True, False])
def test_a_model_that_was_not_saved_is_said_once_and_code_1(call_run, tmp_path, monkeypatch, quiet):
    def full(model, backbone, folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "save_model", full)
    code, out, err = call_run("--keep-model", "final", *["--quiet"] * quiet)
    assert code == 1
    assert (out + err).count("the model was not saved to") == 1
    assert "No space left on device" in (err if quiet else out)
    assert list(tmp_path.glob("runs/*/record.json"))

"""The check of a GPU machine, small and on the CPU: it runs, and what must agree agrees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check.py"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu_check")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--small", "--cpu", "--rounds", "1", "--out", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    content = json.loads((folder / "gpu_check.json").read_text(encoding="utf-8"))
    assert content["device"] == "cpu"
    return {(row["group"], row["name"]): row for row in content["rows"]}


@pytest.mark.parametrize("other", ["trainer", "full_sft"])
def test_the_loop_trains_as_a_bare_loop_and_the_trainer_do(rows, other):
    assert rows["agreement", f"bare and {other}"]["value"] < 1e-6


def test_every_contestant_is_timed(rows):
    for name in ("bare", "trainer", "full_sft", "epi"):
        assert rows["step", name]["value"] > 0
    assert rows["step", "bare"]["ratio"] == 1


@pytest.mark.parametrize("mode", ["ema", "ema, offload", "ema_bf16", "factored", "optimizer"])
def test_no_mode_keeps_more_than_the_docs_say(rows, mode):
    row = rows["importance", f"{mode}: kept"]
    assert 0 < row["value"] <= int(row["note"].split("at most ")[1].replace(",", ""))


@pytest.mark.parametrize("strategy", ["full_sft", "epi"])
def test_every_way_of_keeping_weights_is_timed(rows, strategy):
    names = ("float32", "bfloat16, float32 masters", "bfloat16, stochastic rounding")
    assert all(rows["weights", f"{strategy}, {name}: step"]["value"] > 0 for name in names)


def test_every_mask_is_that_of_the_cpu(rows):
    masks = [row for (group, _), row in rows.items() if group == "masks"]
    assert len(masks) == 6
    assert all(row["value"] == 0 for row in masks)


def test_a_machine_without_a_gpu_is_told_so(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 2
    assert "no GPU here" in done.stderr

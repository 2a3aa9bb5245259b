"""Checkpoints are whole or not there; damage is found and the one before is used."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from epi_bench.runs.checkpoint_folder import (
    Checkpoint,
    CheckpointError,
    CheckpointFolder,
)


def checkpoint(step: int) -> Checkpoint:
    weight = torch.arange(12.0).view(3, 4) + step
    tensors = {
        "model": {"weight": weight, "tied": weight, "turned": weight.t()},
        "optimizer": {"0.step": torch.tensor(float(step)), "mask": weight > 3},
        "half": {"x": torch.tensor([float("nan"), -0.0], dtype=torch.bfloat16)},
    }
    return Checkpoint(step, {"losses": [1.5, float("nan")], "name": "Zoë"}, tensors)


def bits(tensors):
    return {
        (group, name): (tensor.dtype, tensor.shape, bytes(tensor.reshape(-1).view(torch.uint8)))
        for group, part in tensors.items()
        for name, tensor in part.items()
    }


def test_what_was_saved_is_loaded_bit_for_bit(tmp_path):
    CheckpointFolder(tmp_path / "c").save(checkpoint(7))
    found = CheckpointFolder(tmp_path / "c").load_last()
    assert found.step == 7
    assert repr(found.state) == repr(dict(checkpoint(7).state))  # NaN is not itself
    assert bits(found.tensors) == bits(checkpoint(7).tensors)


def test_there_is_none(tmp_path):
    assert CheckpointFolder(tmp_path / "c").load_last() is None
    (tmp_path / "c").mkdir()
    assert CheckpointFolder(tmp_path / "c").load_last() is None


@pytest.mark.parametrize(("kept", "left"), [(0, [3]), (1, [2, 3]), (9, [1, 2, 3])])
def test_older_ones_go_when_a_new_one_is_there(tmp_path, kept, left):
    folder = CheckpointFolder(tmp_path, kept)
    for step in (10, 20, 30):
        folder.save(checkpoint(step))
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == left
    assert folder.load_last().step == 30


def test_they_are_ordered_as_numbers(tmp_path):
    folder = CheckpointFolder(tmp_path, 5)
    folder.save(checkpoint(1))
    (tmp_path / "00000001").rename(tmp_path / "99999999")
    folder.save(checkpoint(2))
    assert folder.load_last().step == 2


def test_a_step_is_saved_again(tmp_path):
    """While a model is scored, no step is made; the one before stays until the new one is whole."""
    folder = CheckpointFolder(tmp_path)
    folder.save(checkpoint(3))
    folder.save(Checkpoint(3, {"second": True}))
    assert folder.load_last().state == {"second": True}


DAMAGE = {
    "a bit": lambda p: p.write_bytes(bytes([p.read_bytes()[0] ^ 1]) + p.read_bytes()[1:]),
    "cut": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "empty": lambda p: p.write_bytes(b""),
    "gone": lambda p: p.unlink(),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "longer": lambda p: p.write_bytes(p.read_bytes() + b" x"),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("file", ["state.json", "model.safetensors", "manifest.json"])
def test_a_damaged_one_is_passed_over(tmp_path, file, how):
    folder = CheckpointFolder(tmp_path, 1)
    folder.save(checkpoint(10))
    folder.save(checkpoint(20))
    DAMAGE[how](tmp_path / "00000002" / file)
    assert folder.load_last().step == 10
    (problem,) = folder.problems
    assert "00000002 is not used" in problem


@pytest.mark.parametrize(
    "manifest",
    [
        "[]",
        "{}",
        '{"format": 1}',
        '{"format": 2, "step": 1, "files": {}}',
        "[" * 100_000,
        '{"format": 1, "step": 1, "files": {"state.json": {}}}',
        '{"format": 1, "step": 1, "files": {"../x": 1}}',
        '{"format": 1, "step": 1, "files": {"state.json": 1, "/etc/passwd": 2}}',
    ],
)
def test_a_manifest_of_something_else(tmp_path, manifest):
    folder = CheckpointFolder(tmp_path)
    folder.save(checkpoint(1))
    (tmp_path / "00000001" / "manifest.json").write_text(manifest)
    assert folder.load_last() is None
    assert len(folder.problems) == 1


def test_a_failed_write_leaves_the_last_one(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path)
    folder.save(checkpoint(10))

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            folder.save(checkpoint(20))
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]
    assert folder.load_last().step == 10


def test_leftovers_are_swept(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(checkpoint(10))
    (tmp_path / ".00000020.1.abcd.tmp").mkdir()
    folder.sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]


WRITER = """
import sys
from pathlib import Path
import torch
from epi_bench.runs.checkpoint_folder import Checkpoint, CheckpointFolder
folder = CheckpointFolder(Path(sys.argv[1]))
step = 0
while True:
    step += 1
    weights = {"w": torch.full((300, 300), float(step))}
    folder.save(Checkpoint(step, {"step": step}, {"model": weights}))
    if step == 1:
        print("first", flush=True)
"""


def test_killed_at_any_moment_there_is_a_whole_one(tmp_path):
    generator = random.Random(0)
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "first\n"
    time.sleep(generator.uniform(0, 0.3))
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = CheckpointFolder(tmp_path)
    found = folder.load_last()
    assert folder.problems == []
    assert found.state["step"] == found.step
    assert bool((found.tensors["model"]["w"] == found.step).all())


def test_a_light_one_takes_over_the_tensors_of_another(tmp_path):
    """Without writing them again; it stays whole when the other one goes."""
    folder = CheckpointFolder(tmp_path / "c")
    first = folder.save(checkpoint(7))
    inode = (first / "model.safetensors").stat().st_ino
    half = {"half": {"x": torch.zeros(1)}}
    second = folder.save(Checkpoint(7, {"scored": 1}, half), like=first)
    assert not first.exists()
    assert (second / "model.safetensors").stat().st_ino == inode
    found = folder.load_last()
    assert found.state == {"scored": 1}
    assert bits(found.tensors) == bits({**checkpoint(7).tensors, **half})


def test_a_light_one_copies_where_there_are_no_links(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    folder = CheckpointFolder(tmp_path / "c")
    folder.save(Checkpoint(7, {}), like=folder.save(checkpoint(7)))
    assert bits(folder.load_last().tensors) == bits(checkpoint(7).tensors)


def test_all_are_given_the_newest_first(tmp_path):
    folder = CheckpointFolder(tmp_path / "c", kept=2)
    assert folder.newest_time() is None
    for step in (1, 2, 3):
        newest = folder.save(checkpoint(step))
    assert [found.step for _, found in folder.load_all()] == [3, 2, 1]
    assert folder.newest_time() == (newest / "manifest.json").stat().st_mtime


def test_the_time_of_one_without_a_manifest_is_not_asked_for(tmp_path):
    folder = CheckpointFolder(tmp_path / "c", kept=1)
    first, second = folder.save(checkpoint(1)), folder.save(checkpoint(2))
    (second / "manifest.json").unlink()
    assert folder.newest_time() == (first / "manifest.json").stat().st_mtime
    (first / "manifest.json").unlink()
    assert folder.newest_time() is None

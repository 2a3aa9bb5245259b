"""Checkpoints: one that was changed is passed over with a line, and the one before is used."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
from hypothesis import strategies as st

from epi_bench.runs.checkpoint_folder import Checkpoint, CheckpointFolder


@pytest.fixture
def checkpoints(tmp_path):
    """Two checkpoints, and the content of the second one's files."""
    import torch

    folder = CheckpointFolder(tmp_path / "checkpoints", kept=1)
    tensors = {"model": {"weight": torch.arange(6.0)}}
    folder.save(Checkpoint(10, {"losses": [2.5]}, tensors))
    last = folder.save(Checkpoint(20, {"losses": [2.5, 2.25]}, tensors))
    return last, {path.name: path.read_bytes() for path in last.iterdir()}


def _load(last, contents: dict[str, bytes]) -> tuple[int, list[str]]:
    shutil.rmtree(last)
    last.mkdir()
    for name, content in contents.items():
        (last / name).write_bytes(content)
    found = CheckpointFolder(last.parent)
    loaded = found.load_last()
    assert loaded is not None
    return loaded.step, found.problems


def test_changed_bytes(fuzz, checkpoints):
    last, contents = checkpoints
    files = st.sampled_from(sorted(contents))

    @fuzz(150, files, st.floats(0, 1), st.integers(0, 255), st.integers(0, 3))
    def case(name, place, byte, cut):
        content = bytearray(contents[name])
        content[int(place * (len(content) - 1))] = byte
        changed = bytes(content[: len(content) - cut])
        step, problems = _load(last, {**contents, name: changed})
        if changed != contents[name] and name != "manifest.json":
            assert step == 10
            assert len(problems) == 1


def test_manifests(fuzz, hostile, checkpoints):
    last, contents = checkpoints
    manifest = json.loads(contents["manifest.json"])
    places = st.sampled_from([
        ("format",), ("step",), ("files",), ("files", "state.json"), ("files", "model.safetensors"),
        ("files", "../../x"), ("files", "model.safetensors", "bytes"), ("unknown",),
    ])  # fmt: skip

    @fuzz(150, places, hostile.json_value)
    def case(place, value):
        changed = json.loads(json.dumps(manifest))
        hostile.put(changed, place, value)
        step, problems = _load(last, {**contents, "manifest.json": json.dumps(changed).encode()})
        assert (step == 10) == (len(problems) == 1)


def test_states_whose_checksum_is_right(fuzz, hostile, checkpoints):
    last, contents = checkpoints
    manifest = json.loads(contents["manifest.json"])
    state = hostile.json_value.map(lambda value: json.dumps(value).encode()) | st.binary(
        max_size=50
    )

    @fuzz(100, state | st.sampled_from([b"[" * 10**5, b"1" + b"0" * 5000, b"\xff", b""]))
    def case(content):
        described = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        changed = {**manifest, "files": {**manifest["files"], "state.json": described}}
        step, problems = _load(
            last,
            {**contents, "state.json": content, "manifest.json": json.dumps(changed).encode()},
        )
        assert (step == 10) == (len(problems) == 1)

"""The peak of the memory, against an allocation of known size."""

from __future__ import annotations

import pytest

from epi_bench.results.record.memory import FORGET, STATUS, forget_peak_memory, peak_memory_bytes

MEBIBYTE = 2**20


@pytest.mark.skipif(not (STATUS.exists() and FORGET.exists()), reason="only Linux can forget")
def test_a_peak_is_forgotten_and_counted_anew():
    if not forget_peak_memory("cpu"):
        pytest.skip("this system does not let a process forget its peak")
    before = peak_memory_bytes("cpu")
    block = bytearray(b"\1") * (96 * MEBIBYTE)
    while_held = peak_memory_bytes("cpu")
    del block
    assert while_held - before == pytest.approx(96 * MEBIBYTE, abs=16 * MEBIBYTE)
    # a peak stays, as exactly as the system counts pages
    assert peak_memory_bytes("cpu") == pytest.approx(while_held, abs=4 * MEBIBYTE)
    assert forget_peak_memory("cpu")
    assert peak_memory_bytes("cpu") < while_held - 64 * MEBIBYTE


def test_without_proc_the_peak_is_that_of_the_process(tmp_path, monkeypatch):
    here = peak_memory_bytes("cpu")
    monkeypatch.setattr("epi_bench.results.record.memory.STATUS", tmp_path / "status")
    monkeypatch.setattr("epi_bench.results.record.memory.FORGET", tmp_path / "clear_refs")
    assert not forget_peak_memory("cpu")
    assert not list(tmp_path.iterdir())
    assert peak_memory_bytes("cpu") >= here - 64 * MEBIBYTE

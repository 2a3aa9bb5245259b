"""The hash of a model's files: always that of their contents, read again only where needed."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from epi_bench.model import content_hash as module
from epi_bench.model.content_hash import content_hash


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two files that are large enough to be kept, and old enough."""
    monkeypatch.setenv("EPI_BENCH_CACHE", str(tmp_path / "caches"))
    monkeypatch.setattr(module, "SMALLEST_KEPT", 3)
    folder = tmp_path / "model"
    folder.mkdir()
    for name, text in (("a", "one"), ("b", "two")):
        write(folder / name, text)
    return [folder / "a", folder / "b"]


@pytest.fixture
def read(monkeypatch):
    """How often the files were read."""
    times = []
    real = module._read
    monkeypatch.setattr(module, "_read", lambda *given: times.append(1) or real(*given))
    return times


def write(path, text, age=3600.0):
    path.write_text(text)
    os.utime(path, (time.time() - age,) * 2)


def hash_of(files):
    return content_hash(files[0].parent, files)


def expected(*texts):
    content = b"".join(n + b"\0" + t.encode() for n, t in zip((b"a", b"b"), texts, strict=True))
    return hashlib.sha256(content).hexdigest()


def test_what_has_not_changed_is_read_once(files, read):
    assert [hash_of(files) for _ in range(3)] == [expected("one", "two")] * 3
    assert len(read) == 1


def test_a_change_is_seen_that_keeps_size_and_time(files, read):
    hash_of(files)
    state = files[0].stat()
    files[0].write_text("ONE")
    os.utime(files[0], ns=(state.st_atime_ns, state.st_mtime_ns))
    assert hash_of(files) == expected("ONE", "two")
    other = files[1].with_name("c")
    write(other, "TWO")
    os.utime(other, ns=(files[1].stat().st_atime_ns, files[1].stat().st_mtime_ns))
    other.replace(files[1])
    assert hash_of(files) == expected("ONE", "TWO")


def test_what_changed_a_moment_ago_is_read_each_time(files, read):
    write(files[0], "new", age=0)
    assert [hash_of(files) for _ in range(2)] == [expected("new", "two")] * 2
    assert len(read) == 2


@pytest.mark.parametrize("content", ["", "0" * 63, "é" * 64, "0" * 64 + "\n" + "0" * 64])
def test_a_damaged_entry_is_made_again(files, read, content, tmp_path):
    hash_of(files)
    [entry] = (tmp_path / "caches" / "hashes").iterdir()
    entry.write_text(content, encoding="utf-8")
    assert hash_of(files) == expected("one", "two")
    assert entry.read_text() == expected("one", "two") + "\n"


def test_without_a_folder_for_caches_files_are_read(files, read, monkeypatch, tmp_path):
    monkeypatch.setenv("EPI_BENCH_CACHE", "off")
    assert hash_of(files) == expected("one", "two")
    (tmp_path / "file").touch()
    monkeypatch.setenv("EPI_BENCH_CACHE", str(tmp_path / "file"))  # cannot be a folder
    assert hash_of(files) == expected("one", "two")
    assert len(read) == 2


def test_small_models_leave_nothing(files, read, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "SMALLEST_KEPT", 7)
    hash_of(files)
    assert not (tmp_path / "caches").exists()

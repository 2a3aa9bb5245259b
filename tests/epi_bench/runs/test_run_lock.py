"""A run has one owner; the owner's end, however it comes, frees the run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from epi_bench.errors import UserError
from epi_bench.runs.run_lock import LOCK, OWNER, RunBusyError, own_run

HOLDER = """
import sys
import time
from pathlib import Path
from epi_bench.runs.run_lock import own_run
with own_run(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "abc")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "mine\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_told_who_owns_the_run(tmp_path, holder):
    told = f"run abc is being made by process {holder.pid} on {socket.gethostname()} since 20"
    with pytest.raises(RunBusyError, match=told), own_run(tmp_path / "abc"):
        pass
    with own_run(tmp_path / "other"):
        pass


def test_a_killed_owner_owns_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    with own_run(tmp_path / "abc"):
        assert f'"pid": {os.getpid()}' in (tmp_path / "abc" / OWNER).read_text()


def test_an_owner_that_ends_frees_the_run(tmp_path, holder):
    holder.communicate("\n")
    for _ in range(2):
        with own_run(tmp_path / "abc"):
            pass
    assert not (tmp_path / "abc" / OWNER).exists()


def test_an_error_inside_frees_the_run(tmp_path):
    with pytest.raises(ZeroDivisionError), own_run(tmp_path / "abc"):
        _ = 1 / 0
    with own_run(tmp_path / "abc"):
        pass


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": 1}', "\xff"])
def test_a_damaged_name_of_the_owner_is_no_matter(tmp_path, holder, content):
    (tmp_path / "abc" / OWNER).write_text(content, encoding="latin-1")
    with pytest.raises(RunBusyError, match="by another process"), own_run(tmp_path / "abc"):
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to"), own_run(tmp_path / "file" / "abc"):
        pass


def test_waiting_is_told_once_and_ends_with_the_owner(tmp_path, holder):
    told = []

    def tell(owner):
        told.append(owner)
        holder.kill()

    with own_run(tmp_path / "abc", tell) as waited:
        assert waited
        assert f'"pid": {os.getpid()}' in (tmp_path / "abc" / OWNER).read_text()
    assert len(told) == 1
    assert told[0].startswith(f"process {holder.pid} on {socket.gethostname()} since ")
    with own_run(tmp_path / "abc", tell) as waited:
        assert not waited


def test_a_run_that_is_not_begun_leaves_no_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), own_run(tmp_path / "out" / "runs" / "abc"):
        assert (tmp_path / "out" / "runs" / "abc").is_dir()
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
    with own_run(tmp_path / "out" / "runs" / "abc"):
        (tmp_path / "out" / "runs" / "abc" / "events.jsonl").touch()
    assert (tmp_path / "out" / "runs" / "abc" / "events.jsonl").is_file()


def test_what_a_killed_owner_left_half_written_is_removed_unless_it_is_new(tmp_path):
    folder = tmp_path / "abc"
    folder.mkdir()
    for name, age in ((".record.json.0a1b2c3d.tmp", 7200), (".run.toml.0a1b2c3d.tmp", 0)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age, time.time() - age))
    (folder / "record.json").touch()
    with own_run(folder):
        names = {path.name for path in folder.iterdir()}
    assert names == {"record.json", ".run.toml.0a1b2c3d.tmp", LOCK, OWNER}

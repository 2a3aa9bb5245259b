"""Where caches lie, and files and folders that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from epi_bench.errors import UserError
from epi_bench.files import (
    bytes_in,
    cache_folder,
    set_aside,
    sweep,
    write_atomically,
    written_folder,
    written_into,
)

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        ("/a", "/a/judge"),
        (" /a ", "/a/judge"),
        ("~/a", "/home/me/a/judge"),
        ("offline", "offline/judge"),
    ],
)
def test_a_named_folder_holds_each_kind(given, folder, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("EPI_BENCH_CACHE", given)
    assert cache_folder("judge") == Path(folder)


@pytest.mark.parametrize("given", ["off", "OFF", "none", "None", "0", "", " "])
def test_caches_can_be_turned_off(given, monkeypatch):
    monkeypatch.setenv("EPI_BENCH_CACHE", given)
    assert cache_folder("judge") is None
    assert cache_folder("encoded") is None


@pytest.mark.skipif(sys.platform != "linux", reason="where Linux keeps caches")
@pytest.mark.parametrize(
    ("shared", "folder"), [("/b", "/b/epi-bench/judge"), ("", "/c/.cache/epi-bench/judge")]
)
def test_else_it_is_where_the_system_keeps_caches(shared, folder, monkeypatch):
    monkeypatch.delenv("EPI_BENCH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", shared)
    monkeypatch.setenv("HOME", "/c")
    assert cache_folder("judge") == Path(folder)


def test_the_home_of_nobody_is_a_user_error(monkeypatch):
    monkeypatch.setenv("EPI_BENCH_CACHE", "~no-such-user-here/a")
    with pytest.raises(UserError, match="EPI_BENCH_CACHE=~no-such-user-here/a: "):
        cache_folder("judge")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    assert names_in(tmp_path) == ["file", "link"]


@pytest.mark.skipif(not Path("/dev/null").is_char_device(), reason="this system has no /dev/null")
def test_a_device_is_written_to_and_not_replaced(tmp_path):
    (tmp_path / "null").symlink_to("/dev/null")
    write_atomically(tmp_path / "null", "gone")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("content", ["é\n", b"\0\xff"])
def test_text_and_bytes_arrive_as_they_are(content, tmp_path):
    write_atomically(tmp_path / "a" / "b", content)
    encoded = content.encode() if isinstance(content, str) else content
    assert (tmp_path / "a" / "b").read_bytes() == encoded


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_whatever_the_disk_refuses_the_old_file_stays(number, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")

    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UserError, match=f"cannot write .*file: {os.strerror(number)}"):
        write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert names_in(tmp_path) == ["file"]


def test_a_limit_of_the_size_of_files_is_an_error_and_no_signal(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(UserError, match="File too large"):
            write_atomically(tmp_path / "file", "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names_in(tmp_path) == []


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for content in ("old", "new"):
        with written_folder(tmp_path / "models" / "final") as folder:
            assert list(folder.iterdir()) == []
            (folder / content).write_text(content)
            assert not (tmp_path / "models" / "final" / content).exists()
    assert names_in(tmp_path / "models") == ["final"]
    assert names_in(tmp_path / "models" / "final") == ["new"]
    assert bytes_in(tmp_path / "models") == 3


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()])
def test_a_folder_that_was_not_finished_is_not_there(error, tmp_path):
    with written_folder(tmp_path / "final") as folder:
        (folder / "old").touch()
    with pytest.raises(type(error)), written_folder(tmp_path / "final") as folder:
        (folder / "half").touch()
        raise error
    assert names_in(tmp_path) == ["final"]
    assert names_in(tmp_path / "final") == ["old"]


@pytest.mark.parametrize("fails", [False, True])
def test_files_are_put_beside_others_all_or_none(fails, tmp_path):
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "config").write_text("old")
    try:
        with written_into(tmp_path) as folder:
            (folder / "config").write_text("new")
            (folder / "weights").touch()
            if fails:
                raise FULL
    except OSError:
        assert fails
    assert names_in(tmp_path) == ["config", "notes", *["weights"] * (not fails)]
    assert (tmp_path / "config").read_text() == ("old" if fails else "new")


def test_leftovers_of_killed_writers_are_swept(tmp_path):
    (tmp_path / ".record.json.0a1b2c3d.tmp").touch()
    (tmp_path / ".final.0a1b2c3d.tmp").mkdir()
    (tmp_path / ".final.0a1b2c3d.tmp" / "weights").touch()
    (tmp_path / "record.json").touch()
    sweep(tmp_path, older_than=3600)
    assert len(names_in(tmp_path)) == 3
    sweep(tmp_path, older_than=0)
    assert names_in(tmp_path) == ["record.json"]
    sweep(tmp_path / "nowhere")


def test_a_damaged_file_makes_room(tmp_path):
    (tmp_path / "record.json").write_text("{")
    assert set_aside(tmp_path / "record.json") == tmp_path / "record.damaged.json"
    assert names_in(tmp_path) == ["record.damaged.json"]
    assert set_aside(tmp_path / "record.json") is None

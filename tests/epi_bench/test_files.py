"""Where caches lie."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from epi_bench.errors import UserError
from epi_bench.files import cache_folder


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

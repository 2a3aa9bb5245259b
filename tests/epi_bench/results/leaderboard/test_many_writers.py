"""Many processes publish to one track at the same time: nothing is lost, the tables are right."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time

import pytest

from epi_bench.results.leaderboard import load_published, publish
from epi_bench.results.leaderboard.pages import rendered_files, write_rendered_files
from epi_bench.results.metrics.statistics import mean_interval

WRITERS = 20


def write(record, folder, barrier):
    barrier.wait()
    publish(record, folder)
    write_rendered_files(load_published(folder))


@pytest.mark.skipif(sys.platform == "win32", reason="copies of the process are quick to make")
def test_twenty_writers_lose_nothing(make_run, tmp_path):
    records = [make_run("epi", (50 + seed, 80), seed=seed) for seed in range(WRITERS)]
    mean_interval([1.0, 2.0])  # imports what each writer would import for itself
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(WRITERS)
    writers = [context.Process(target=write, args=(r, tmp_path, barrier)) for r in records]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    published = load_published(tmp_path)
    assert published.problems == ()
    [found] = published.tracks.values()
    assert {r.run_id for r in found} == {r.run_id for r in records}
    for path, text in rendered_files(published).items():
        assert (tmp_path / path).read_text(encoding="utf-8") == text
    assert [p.name for p in tmp_path.rglob(".*")] == []  # neither locks nor half-written files


def test_a_record_that_is_there_is_not_written_again(make_run, tmp_path):
    record = make_run()
    path = publish(record, tmp_path)
    os.utime(path, (1, 1))
    left = path.with_name(".x.json.0a1b2c3d.tmp")
    left.touch()
    os.utime(left, (time.time() - 86400,) * 2)
    publish(record, tmp_path)
    assert path.stat().st_mtime == 1
    assert not left.exists()
    assert publish(make_run(seconds=7.0), tmp_path) == path  # the same run, at another cost
    assert path.stat().st_mtime > 1

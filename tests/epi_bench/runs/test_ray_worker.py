"""A machine that makes another one's run: what it reports, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from epi_bench.errors import UserError
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs import ray_worker
from epi_bench.runs.order import Order
from epi_bench.runs.ray_worker import Mailbox, Reporter, Surroundings, appears
from epi_bench.runs.request import RunRequest


@pytest.fixture
def order(toy_spec):
    return Order(toy_spec(), RunRequest(Workspace(Path())))


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_worker, "SECONDS_FOR_THE_FOLDER", 0.0)
    return Surroundings(str(tmp_path), None, None)


class TestSurroundings:
    def test_they_arrive_whole(self):
        given = Surroundings("/a", "/a/mark", 3, "1.2")
        assert Surroundings(**json.loads(given.to_json())) == given

    def test_another_version_is_refused(self, here, order):
        with pytest.raises(UserError) as error:
            replace(here, version="0.0.9").take_up(order)
        machine = f"machine {socket.gethostname()} has epi-bench {ray_worker.VERSION}"
        assert str(error.value) == f"{machine}, this one 0.0.9: install the same on all machines"

    def test_a_missing_working_folder_is_refused(self, here, order, tmp_path):
        gone = str(tmp_path / "gone")
        with pytest.raises(UserError, match=f"has no folder {gone} .* all machines share"):
            replace(here, folder=gone).take_up(order)

    def test_a_folder_of_the_same_name_that_is_another_is_refused(self, here, order, tmp_path):
        with pytest.raises(UserError, match="is another folder than here") as error:
            replace(here, mark=str(tmp_path / ".mark")).take_up(order)
        assert error.value.settings == ("out",)
        (tmp_path / ".mark").touch()
        replace(here, mark=str(tmp_path / ".mark")).take_up(order)

    def test_relative_paths_start_from_the_folder_of_who_asks(self, here, order, tmp_path):
        os.chdir("/")
        here.take_up(order)
        assert Path.cwd() == tmp_path

    @pytest.mark.parametrize(("given", "threads"), [(None, 3), (1, 1)])
    def test_open_threads_are_those_of_who_asks(self, given, threads, here, order):
        import torch

        before = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            open_order = replace(order, spec=order.spec.model_copy(update={"threads": given}))
            replace(here, threads=3).take_up(open_order)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)


def test_frequent_events_are_sent_together_and_none_is_lost(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(ray_worker, "monotonic", lambda: now[0])
    mailbox, sent = Mailbox(), []

    def put(lines):
        sent.append(len(lines))
        mailbox.put(lines)
        return len(sent)

    waited = []
    reporter = Reporter(put, waited.append, {"position": 4, "attempt": 2})
    reporter.started()
    for number in range(10):
        now[0] += 0.1
        reporter.event({"event": "step_done", "arguments": [number]})
    reporter.event({"event": "stage", "arguments": ["scoring"]})
    reporter.event({"event": "step_done", "arguments": [10]})
    reporter.close()
    assert waited == [len(sent)]
    assert sent == [1, 3, 3, 3, 2, 1]
    lines = [json.loads(line) for line in mailbox.take()]
    assert mailbox.take() == []
    assert all((line["position"], line["attempt"]) == (4, 2) for line in lines)
    assert lines[0]["started"] == socket.gethostname()
    steps = [line["event"]["arguments"][0] for line in lines[1:]]
    assert steps == [*range(10), "scoring", 10]


def test_a_file_may_appear_late(tmp_path):
    late = tmp_path / "late"
    timer = threading.Timer(0.3, late.touch)
    timer.start()
    assert appears(late, 60)
    timer.join()
    assert not appears(tmp_path / "never", 0)
    assert not appears(tmp_path / "no folder" / "file", 0)


def test_a_cancellation_ends_what_the_process_waits_for():
    """Ray's way is ``interrupt_main``, which a sleeping thread does not notice by itself."""
    import _thread

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)]
    timer = threading.Timer(0.3, _thread.interrupt_main)
    begun = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        ray_worker._waiting_ends_with_interruption(),
    ):
        timer.start()
        time.sleep(60)
    assert time.monotonic() - begun < 50
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGUSR1)] == handlers

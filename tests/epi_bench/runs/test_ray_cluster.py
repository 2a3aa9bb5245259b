"""Runs on Ray: the records of one process, whatever happens to processes and machines."""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
from pathlib import Path

import pytest

from epi_bench.results.record.record_file import comparable, load_record
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.many_runs import make_runs, run_in_process
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.ray_cluster import RayCluster
from epi_bench.runs.request import RunRequest

pytestmark = [pytest.mark.multi_process, pytest.mark.slow, pytest.mark.xdist_group("ray")]

STRATEGIES = '''
import os, time
from epi_bench import Strategy, register_strategy


@register_strategy("slow")
class Slow(Strategy):
    """Takes its time."""

    def __init__(self, seconds: float = 0.2):
        self.seconds = seconds

    def parameters_updated(self, step):
        time.sleep(self.seconds)


@register_strategy("fails")
class Fails(Strategy):
    """Raises while it trains."""

    def parameters_updated(self, step):
        print("words of a plugin")
        raise ArithmeticError("nothing left to divide")


@register_strategy("dies")
class Dies(Strategy):
    """Takes its process with it."""

    def parameters_updated(self, step):
        os._exit(3)
'''


class Heard(RunObserver):
    """Keeps what was said, with the title of the run that said it."""

    def __init__(self, title="", said=None):
        self.title, self.said = title, [] if said is None else said

    def for_run(self, title):
        return Heard(title, self.said)

    def warning(self, message):
        self.said.append((self.title, "warning", message))

    def run_started(self, run_id, title, total_steps, tasks):
        self.said.append((self.title, "started", run_id))

    def step_done(self, report):
        self.said.append((self.title, "step", report.number))

    def run_ended(self, status, error):
        self.said.append((self.title, status, error))

    def of(self, title, kind):
        return [content for who, what, content in self.said if (who, what) == (title, kind)]


@pytest.fixture(scope="module")
def strategies(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "strategies.py"
    path.write_text(STRATEGIES)
    return path


@pytest.fixture
def loaded(strategies, forgotten_plugins):
    from epi_bench.plugins.loading import load_plugin_file

    load_plugin_file(strategies)
    return strategies


@pytest.fixture
def two_threads():
    """This process computes with two threads, where Ray gives a task one for each of its CPUs."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def short_folder():
    """For Ray's own files; its sockets have long names, so the path must be short."""
    path = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def with_model(spec, name):
    return spec.model_copy(update={"model": spec.model.model_copy(update={"name": name})})


def test_runs_on_ray_are_those_of_one_process(
    toy_spec, toy_tasks, loaded, two_threads, short_folder, tmp_path, monkeypatch, capfd
):
    """Two runs, one that fails, one whose process ends, one that cannot start."""
    open_threads = toy_spec("full_sft", seed=1).model_copy(update={"threads": None})
    specs = [toy_spec("epi", {"warmup": 2}, seed=1), open_threads, toy_spec("fails")]
    specs += [toy_spec("dies"), with_model(toy_spec("ewc"), "no/model")]
    request = RunRequest(Workspace(tmp_path / "ray"), plugins=(toy_tasks, loaded))
    monkeypatch.setenv("TMPDIR", str(short_folder))
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    heard = Heard()
    outcomes = {
        outcome.spec.strategy.name: outcome
        for outcome in make_runs(specs, request, RayCluster(retries=1), heard)
    }

    epi, full = outcomes["epi"], outcomes["full_sft"]
    alone = RunRequest(Workspace(tmp_path / "alone"), plugins=request.plugins)
    own = [outcome.record for outcome in run_in_process(specs[:2], alone, RunObserver())]
    assert [comparable(epi.record), comparable(full.record)] == [comparable(r) for r in own]
    assert full.record.spec.threads == 2
    assert full.record == load_record(full.path)
    assert heard.of("epi, seed 1", "step") == list(range(1, 13))
    assert heard.of("epi, seed 1", "finished") == [None]

    assert outcomes["fails"].record.status == "failed"
    assert outcomes["fails"].reason == "ArithmeticError: nothing left to divide"
    died = f"its process on {socket.gethostname()} ended unexpectedly"
    assert outcomes["dies"].error == f"{died}; given up after 2 tries (retries)"
    assert len(heard.of("dies, seed 0", "started")) == 2
    told = f"dies, seed 0: {died}; it is tried again (2 of 2)"
    assert heard.of("dies, seed 0", "warning") == [told]
    assert "'no/model' is neither a local folder" in outcomes["ewc"].error

    assert (
        sorted(path.name for path in (tmp_path / "ray/runs").glob("*/record.json"))
        == ["record.json"] * 3
    )  # of the two and of the failed one
    assert capfd.readouterr().out == ""  # neither Ray's words nor a plugin's
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert list(short_folder.iterdir()) == []  # of Ray's own files

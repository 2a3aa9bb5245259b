"""A Ray cluster of several machines, simulated on this one: machines leave and join."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from epi_bench.results.record.record_file import comparable, load_record
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.checkpoint_settings import CheckpointSettings
from epi_bench.runs.many_runs import make_runs, run_in_process
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.ray_cluster import RayCluster
from epi_bench.runs.request import RunRequest

pytestmark = [pytest.mark.multi_process, pytest.mark.slow, pytest.mark.xdist_group("ray machines")]

PATIENCE = 900.0
"""Seconds that a busy machine may need for what takes a few."""

SMALL = {"object_store_memory": 80 * 2**20}

WAITS = '''
import os, time
from pathlib import Path
from epi_bench import Strategy, register_strategy


@register_strategy("waits")
class Waits(Strategy):
    """Waits in the middle until the folder has a file ``go``.

    Args:
        folder: Where to look; it gets a file with the process and its machine's.
    """

    def __init__(self, folder: str = "."):
        self.folder = Path(folder)

    def parameters_updated(self, step):
        if step.number == 4 and not (self.folder / "go").exists():
            (self.folder / f"{os.getpid()}-{os.getppid()}").touch()
            while not (self.folder / "go").exists():
                time.sleep(0.05)


@register_strategy("sleeps")
class Sleeps(Strategy):
    """Waits for ever; a file in the working folder says so."""

    def begin_experience(self, experience):
        Path(f"sleeps-{os.getpid()}").touch()
        time.sleep(3600)
'''


class Heard(RunObserver):
    """Keeps warnings, beginnings and ends, with the title of the run."""

    def __init__(self, title="", said=None):
        self.title, self.said = title, [] if said is None else said

    def for_run(self, title):
        return Heard(title, self.said)

    def warning(self, message):
        self.said.append((self.title, message))

    def run_started(self, run_id, title, total_steps, tasks):
        self.said.append((self.title, "started"))

    def resumed(self, step, where):
        self.said.append((self.title, f"resumed after step {step}"))

    def run_ended(self, status, error):
        self.said.append((self.title, status))


def patiently(start):
    """What a function starts; Ray gives a machine that is busy thirty seconds for it."""
    for _ in range(3):
        try:
            return start()
        except Exception as error:  # noqa: BLE001  (Ray raises just this)
            failure = error
    raise failure


def three_machines(folder):
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": folder}
    made = Cluster(initialize_head=True, head_node_args={**head, **SMALL})
    for _ in range(3):
        made.add_node(num_cpus=1, **SMALL)
    return made


@pytest.fixture(scope="module")
def cluster():
    """A machine without CPUs that holds the cluster together, and three with one each."""
    folder = tempfile.mkdtemp(prefix="ray-test-", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = patiently(lambda: three_machines(folder))
        yield made
        made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def waits(tmp_path, forgotten_plugins):
    from epi_bench.plugins.loading import load_plugin_file

    path = tmp_path / "waits.py"
    path.write_text(WAITS)
    load_plugin_file(path)
    return path


@pytest.fixture
def short_folder():
    """For Ray's own files; its sockets have long names, so the path must be short."""
    path = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def until(true):
    """What a function gives, once that is true."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := true():
            return found
        time.sleep(0.1)
    raise TimeoutError


def waiting_in(folder, count):
    """Process and machine of each run that waits, once there are so many."""
    found = until(lambda: len(found := list(folder.glob("*-*"))) >= count and found)
    return [tuple(map(int, path.name.split("-"))) for path in found]


@contextmanager
def closing_meeting(folder):
    """Let the runs go on that wait in a folder, whatever happens."""
    try:
        yield
    finally:
        (folder / "go").touch()


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def process_of(node):
    return node.all_processes["raylet"][0].process.pid


def test_no_run_is_lost_with_its_machine_and_none_counts_twice(
    cluster, toy_spec, toy_tasks, waits, tmp_path
):
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    specs = [toy_spec("waits", {"folder": str(meeting)}, seed=seed) for seed in range(4)]
    request = RunRequest(
        Workspace(tmp_path / "out"),
        plugins=(toy_tasks, waits),
        checkpoints=CheckpointSettings(every_steps=2),
    )
    heard = Heard()
    runs = make_runs(specs, request, RayCluster(cluster.address), heard)
    with ThreadPoolExecutor(1) as pool, closing_meeting(meeting):
        outcomes = pool.submit(list, runs)
        (worker, first), (second, _), _ = waiting_in(meeting, 3)
        [node] = [n for n in cluster.worker_nodes if process_of(n) == first]
        cluster.remove_node(node, allow_graceful=False)
        until(lambda: not is_alive(worker))
        os.kill(second, signal.SIGTERM)  # as a machine does that is shut down
        cluster.add_node(num_cpus=1, **SMALL)
    outcomes = outcomes.result()

    assert [outcome.reason for outcome in outcomes] == [None] * 4
    alone = RunRequest(Workspace(tmp_path / "alone"), plugins=request.plugins)
    own = [outcome.record for outcome in run_in_process(specs, alone, RunObserver())]
    made = sorted((outcome.record for outcome in outcomes), key=lambda record: record.spec.seed)
    assert [comparable(record) for record in made] == [comparable(record) for record in own]
    folder = tmp_path / "out"
    records = [load_record(path) for path in folder.glob("runs/*/record.json")]
    assert sorted(record.run_id for record in records) == sorted(r.run_id for r in own)
    published = sorted(path.stem for path in request.workspace.board.glob("*/*.json"))
    assert published == sorted(record.run_id for record in own)

    tried_again = [what for what in heard.said if what[1].endswith("it is tried again (2 of 4)")]
    assert len(tried_again) == 2
    here = socket.gethostname()
    assert sum(f"{here} was lost" in said for _, said in tried_again) == 1
    for title, _ in tried_again:
        assert heard.said.count((title, "started")) == 2
        assert heard.said.count((title, "finished")) == 1
    went_on = {title: what for title, what in heard.said if what.startswith("resumed")}
    told_to_end, killed = sorted(went_on.values(), reverse=True)
    assert set(went_on) == {title for title, _ in tried_again}
    assert told_to_end == "resumed after step 4"
    assert killed == "resumed after step 2"
    assert sum(what == "started" for _, what in heard.said) == 6
    assert not list(tmp_path.glob("**/.epi-bench-*"))


def test_runs_wait_for_a_machine_that_can_hold_them(cluster, toy_spec, toy_tasks, tmp_path):
    heard = Heard()
    request = RunRequest(Workspace(tmp_path), plugins=(toy_tasks,))
    runs = make_runs([toy_spec(steps=2)], request, RayCluster(cluster.address, 2), heard)

    with ThreadPoolExecutor(1) as pool:
        outcomes = pool.submit(list, runs)
        until(lambda: heard.said)
        cluster.add_node(num_cpus=2, **SMALL)
    [outcome] = outcomes.result()
    assert outcome.succeeded
    assert heard.said[0][1] == (
        "a run is to have 2 CPUs and 0 GPUs, and no machine has more than 1 and 0: the runs wait "
        "until one joins"
    )


@pytest.mark.parametrize(
    ("number", "code", "on_cluster"),
    [(signal.SIGTERM, 143, True), (signal.SIGKILL, -9, True)],
)
def test_everything_ends_with_who_asked(
    number, code, on_cluster, cluster, toy_model, toy_tasks, waits, short_folder, tmp_path
):
    """Also a run that waits for something else, as for a server; within seconds."""
    command = [sys.executable, "-m", "epi_bench", "run", "--strategy", "sleeps", "--seeds", "3"]
    command += ["--backend", "ray", "--plugin", str(waits), "--plugin", str(toy_tasks)]
    command += ["--model", str(toy_model), "--tasks", "toy_first", "--steps", "3"]
    command += ["--address", cluster.address] if on_cluster else []
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(short_folder)},
        text=True,
    ) as process:
        until(lambda: list(tmp_path.glob("sleeps-*")) or process.poll() is not None)
        begun = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, errors
    workers = [int(path.name.split("-")[1]) for path in tmp_path.glob("sleeps-*")]
    until(lambda: not any(map(is_alive, workers)))
    until(lambda: not list(short_folder.iterdir()))  # of Ray's own files
    print(f"{time.monotonic() - begun:.1f} s to the end of everything")
    assert workers
    assert not list(tmp_path.glob("**/record.json"))
    assert not list(tmp_path.glob("**/.epi-bench-*"))
    if number != signal.SIGKILL:
        [line] = [line for line in errors.splitlines() if line.startswith("epi-bench:")]
        assert "run the same command again to go on" in line
        assert "Traceback" not in errors

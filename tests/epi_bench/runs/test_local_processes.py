"""Processes that make runs side by side: they stay, they die, they end with whoever asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.local_processes import LocalProcesses, visible_gpus
from epi_bench.runs.order import Order
from epi_bench.runs.request import RunOutcome, RunRequest
from epi_bench.spec.defaults import complete_spec

PATIENCE = 60.0
"""Seconds that a loaded machine gets for what takes one."""

ANSWERING = """
import json, os, sys
print('{"ready": true}', flush=True)
for line in sys.stdin:
    spec = json.loads(line)["spec"]
    if spec["seed"] == 13:
        print("the last\\nwords", file=sys.stderr, flush=True)
        os._exit(3)
    error = f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}"
    print(json.dumps({"event": "stage", "arguments": [str(spec["seed"])]}))
    print(json.dumps({"outcome": {"spec": spec, "record": None, "error": error}}))
    print('{"ended": 0}', flush=True)
"""
"""Says which process it is; dies at seed 13."""

COPYING = """
import os, sys, time
from pathlib import Path
from epi_bench.runs import child
from epi_bench.runs.request import RunOutcome

def make(order, observer):
    seed = order.spec.seed
    if seed == 2:
        os.kill(os.getpid(), 9)
    Path(sys.argv[1], f"{seed} {os.getpid()}").touch()
    if seed >= 100:
        try:
            observer.stage("begun")
            time.sleep(600)
        except KeyboardInterrupt:
            Path(sys.argv[1], f"checkpoint of {seed}").touch()
            if seed == 101:
                time.sleep(600)
            raise
    return RunOutcome(order.spec, None, error=f"{os.getpid()} {child.COPIES}")

child.NEEDED, child.make_ordered_run = (), make
child.COPIES, child.GRACE_SECONDS = sys.argv[2] == "copies", 1.0
sys.exit(child.main())
"""
"""The real program with runs that only say who they are; from seed 100 on they take long."""

ASKING = """
import sys
from pathlib import Path
from epi_bench.runs import local_processes, worker
from epi_bench.runs.interruption import exit_code, sigterm_interrupts
from epi_bench.runs.order import order_from_json

worker.COMMAND = (sys.executable, "-c", *sys.argv[1:4])
orders = [order_from_json(line) for line in sys.stdin.buffer.read().splitlines()]
try:
    with sigterm_interrupts():
        for position, message in local_processes.LocalProcesses(2).run(orders):
            pass
except KeyboardInterrupt as interruption:
    sys.exit(exit_code(interruption))
"""
"""A command that has runs made, two at a time."""


def order(seed):
    return Order(complete_spec({"seed": seed}), RunRequest(Workspace(Path("out"))))


def outcomes(backend, seeds):
    """The outcomes by seed."""
    said = list(backend.run([order(seed) for seed in seeds]))
    found = {m.spec.seed: m.error for _, m in said if isinstance(m, RunOutcome)}
    assert sorted(found) == sorted(seeds)
    assert all(m.spec.seed == seeds[p] for p, m in said if isinstance(m, RunOutcome))
    assert sum(isinstance(m, RunOutcome) for _, m in said) == len(seeds)
    return found


@pytest.fixture
def program(monkeypatch):
    """Has a program in place of the one that makes runs."""

    def use(text, *arguments):
        command = (sys.executable, "-c", text, *map(str, arguments))
        monkeypatch.setattr("epi_bench.runs.worker.COMMAND", command)

    return use


def test_a_process_takes_one_order_after_the_other_and_stays_for_the_next_call(program):
    program(ANSWERING)
    with LocalProcesses(1) as backend:
        first = outcomes(backend, [0, 1, 2])
        assert len(set(first.values())) == 1
        assert set(outcomes(backend, [3]).values()) == set(first.values())


def test_events_come_with_the_position_of_their_run(program):
    program(ANSWERING)
    with LocalProcesses(2) as backend:
        said = list(backend.run([order(seed) for seed in (5, 6, 7)]))
    stages = {p: m["arguments"][0] for p, m in said if not isinstance(m, RunOutcome)}
    assert stages == {0: "5", 1: "6", 2: "7"}


def test_after_a_process_that_dies_another_takes_over(program):
    program(ANSWERING)
    with LocalProcesses(1) as backend:
        found = outcomes(backend, [0, 13, 1])
    assert found[13] == "words"
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import sys; sys.exit('no [red]memory[/red]\\x1b')", r"no [red]memory[/red]\x1b"),
        ("import sys; sys.stdin.read(1); raise MemoryError('gone')", "MemoryError: gone"),
        ("import os; os._exit(3)", "its process ended with code 3"),
        (
            "import os; os.kill(os.getpid(), 9)",
            "its process was killed, as the system does when memory runs out",
        ),
        ("import os; os.kill(os.getpid(), 11)", "its process was ended by SIGSEGV"),
    ],
)
def test_the_end_of_a_process_is_one_line(text, error, program):
    program(text)
    with LocalProcesses(1) as backend:
        assert outcomes(backend, [0]) == {0: error}


def test_processes_get_the_visible_gpus_in_turn(program, monkeypatch):
    program(ANSWERING)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-8")
    assert visible_gpus() == ["4", "GPU-8"]
    with LocalProcesses(3) as backend:
        found = outcomes(backend, [0, 1, 2, 13, 3])
    assert {found[seed].split(" ", 1)[1] for seed in (0, 1, 2)} == {"4", "GPU-8"}
    for given, told in (("7", "7"), ("", "")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        with LocalProcesses(2) as backend:
            assert outcomes(backend, [0])[0].split(" ", 1)[1] == told


@pytest.mark.skipif(sys.platform != "linux", reason="copies are made on Linux")
@pytest.mark.parametrize("way", ["copies", "no copies"])
def test_each_run_has_a_process_of_its_own(way, program, tmp_path):
    program(COPYING, tmp_path, way)
    with LocalProcesses(1) as backend:
        found = outcomes(backend, [0, 1, 2, 3])
    assert "killed" in found.pop(2)
    assert {said.split()[1] for said in found.values()} == {str(way == "copies")}
    assert len(set(found.values())) == 3


def alive(path):
    """The processes that noted their number in a folder and are still there."""
    pids = [int(p.name.split()[1]) for p in path.iterdir() if "checkpoint" not in p.name]
    return [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists() and not is_zombie(pid)]


def is_zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_closing_ends_the_runs_after_their_checkpoints(program, tmp_path):
    program(COPYING, tmp_path, "copies")
    with LocalProcesses(2) as backend:
        with closing(backend.run([order(seed) for seed in (100, 101, 102)])) as messages:
            for _ in range(2):
                next(messages)
        assert alive(tmp_path) == []
    noted = {path.name for path in tmp_path.iterdir() if "checkpoint" in path.name}
    assert noted == {"checkpoint of 100", "checkpoint of 101"}  # 102 has never begun


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.multi_process
@pytest.mark.parametrize(
    ("number", "code", "way"),
    [
        (signal.SIGINT, 130, "copies"),
        (signal.SIGTERM, 143, "copies"),
        (signal.SIGKILL, -signal.SIGKILL, "copies"),
        (signal.SIGKILL, -signal.SIGKILL, "no copies"),
    ],
)
def test_runs_end_with_whoever_asked_for_them(number, code, way, tmp_path):
    orders = b"\n".join(order(seed).to_json() for seed in (100, 101, 102))
    command = [sys.executable, "-c", ASKING, COPYING, str(tmp_path), way]
    asking = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    asking.stdin.write(orders)
    asking.stdin.close()
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    assert len(alive(tmp_path)) == 2
    if number == signal.SIGINT:
        os.killpg(asking.pid, number)  # as a terminal sends it
    else:
        asking.send_signal(number)
    assert asking.wait(PATIENCE) == code
    wait_for(lambda: not alive(tmp_path))
    assert {p.name for p in tmp_path.iterdir() if "checkpoint" in p.name} == {
        "checkpoint of 100",
        "checkpoint of 101",
    }
    assert not any(path.name.startswith("102") for path in tmp_path.iterdir())


def test_the_death_of_the_process_in_between_ends_its_run(tmp_path):
    """The copy's own parent is killed: the kernel tells the copy."""
    if sys.platform != "linux":
        pytest.skip("copies are made on Linux")
    command = [sys.executable, "-c", COPYING, str(tmp_path), "copies"]
    between = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    between.stdin.write(order(100).to_json() + b"\n")
    between.stdin.flush()
    assert json.loads(between.stdout.readline()) == {"ready": True}
    assert json.loads(between.stdout.readline())["event"] == "stage"
    between.kill()
    between.wait()
    wait_for(lambda: not alive(tmp_path))
    assert (tmp_path / "checkpoint of 100").exists()

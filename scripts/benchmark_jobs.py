"""How well runs at a time use their processes: N runs on W against one after the other.

    python scripts/benchmark_jobs.py --runs 8 --jobs 1,2

The aim is N runs on W processes in at most N / (0.9 W) times what one run takes; the last column is
W times the time, divided by N times that of one run: 1 is perfect, up to 1.11 is within the aim.
One run's time is the mean of the runs in one process that has made one before, so that the imports,
which are paid once, count against the processes. Run it on a machine that does nothing else, with
one thread a run (OMP_NUM_THREADS=1 and as many cores as jobs).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.backend import Backend
from epi_bench.runs.local_processes import LocalProcesses
from epi_bench.runs.many_runs import run_on_backend
from epi_bench.runs.ray_cluster import RayCluster
from epi_bench.runs.request import RunRequest
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.run_spec import RunSpec


def main() -> None:
    """Make the runs with each number of jobs, and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--jobs", default="1,2", help="numbers of processes, separated by commas")
    parser.add_argument("--backend", choices=["local", "ray"], default="local")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    specs = [
        complete_spec({"training": {"steps": arguments.steps}, "seed": seed, "threads": 1})
        for seed in range(arguments.runs)
    ]
    one = seconds_of_one(specs[:3])
    print(f"one run: {one:.1f} s")
    print("runs  jobs  seconds  W x seconds / (N x one run)")
    for jobs in map(int, arguments.jobs.split(",")):
        backend = LocalProcesses(jobs) if arguments.backend == "local" else ray_for(jobs)
        seconds = seconds_of(specs, backend)
        ratio = jobs * seconds / (len(specs) * one)
        print(f"{len(specs):4}  {jobs:4}  {seconds:7.1f}  {ratio:.2f}", flush=True)


def ray_for(jobs: int) -> Backend:
    """A Ray of this machine whose CPUs hold so many runs at a time."""
    return RayCluster(cpus_per_run=len(os.sched_getaffinity(0)) // jobs)


def seconds_of(specs: list[RunSpec], backend: Backend) -> float:
    """From the first order to the last outcome, in an empty folder.

    Raises:
        RuntimeError: If a run does not finish.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        request = RunRequest(Workspace(Path(folder)), published=False)
        for outcome in run_on_backend(specs, request, backend):
            if not outcome.succeeded:
                raise RuntimeError(outcome.reason)
    return time.monotonic() - start


def seconds_of_one(specs: list[RunSpec]) -> float:
    """A run's mean time in a process that has made one already."""
    with tempfile.TemporaryDirectory() as folder:
        request = RunRequest(Workspace(Path(folder)), published=False)
        ends = [time.monotonic() for _ in run_on_backend(specs, request, LocalProcesses(1))]
    return (ends[-1] - ends[0]) / (len(ends) - 1)


if __name__ == "__main__":
    main()

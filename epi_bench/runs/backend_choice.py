"""Which backend makes the runs that a caller asks for."""

from __future__ import annotations

from typing import Any

from epi_bench.errors import UserError, unknown_name
from epi_bench.runs.backend import Backend
from epi_bench.runs.many_runs import local_backend
from epi_bench.runs.ray_cluster import RayCluster

BACKENDS = ("local", "ray")


def choose_backend(backend: str | RayCluster, jobs: int, runs: int, **given: Any) -> Backend | None:
    """What makes runs, or ``None`` if it is this process.

    Args:
        backend: ``"local"``, ``"ray"``, or a cluster.
        jobs: Runs at a time in processes of this machine.
        runs: How many there are.
        given: Arguments of :class:`RayCluster`; ``None`` where one was not given.

    Raises:
        UserError: If these do not go together.
    """
    for_ray = {name: value for name, value in given.items() if value is not None}
    if backend not in BACKENDS and not isinstance(backend, RayCluster):
        raise unknown_name("backend", str(backend), BACKENDS)
    if backend == "local":
        for name in for_ray:
            raise UserError(
                f"{name} is for runs on Ray: choose the backend ray, or leave it out",
                setting=(name, "backend"),
            )
        return local_backend(jobs, runs)
    if jobs > 1:
        raise UserError(
            "jobs counts processes of this machine; on Ray, cpus_per_run and gpus_per_run say how "
            "many runs there are at a time: leave jobs out",
            setting=("jobs", "cpus_per_run", "gpus_per_run"),
        )
    return backend if isinstance(backend, RayCluster) else RayCluster(**for_ray)

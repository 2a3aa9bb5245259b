"""What makes runs follows from what was asked for; what does not go together is one line."""

from __future__ import annotations

import math

import pytest

from epi_bench.errors import UserError
from epi_bench.runs.backend_choice import choose_backend
from epi_bench.runs.local_processes import LocalProcesses
from epi_bench.runs.ray_cluster import RayCluster


def test_this_process_makes_one_run_after_the_other():
    assert choose_backend("local", jobs=1, runs=5) is None
    assert choose_backend("local", jobs=4, runs=1) is None


def test_jobs_are_processes_of_this_machine_no_more_than_runs():
    backend = choose_backend("local", jobs=4, runs=3, address=None)
    assert isinstance(backend, LocalProcesses)
    assert backend.runs_at_a_time == 3


def test_ray_makes_also_a_single_run():
    assert isinstance(choose_backend("ray", jobs=1, runs=1, cpus_per_run=2), RayCluster)
    cluster = RayCluster("auto", gpus_per_run=0.5)
    assert choose_backend(cluster, jobs=1, runs=3) is cluster


@pytest.mark.parametrize(
    ("backend", "jobs", "given", "message", "settings"),
    [
        ("rey", 1, {}, "unknown backend 'rey': did you mean 'ray'?", ()),
        ("local", 1, {"address": "auto"}, "address is for runs on Ray", ("address", "backend")),
        ("local", 2, {"gpus_per_run": 1}, "gpus_per_run is for", ("gpus_per_run", "backend")),
        ("ray", 2, {}, "leave jobs out", ("jobs", "cpus_per_run", "gpus_per_run")),
        ("ray", 1, {"cpus_per_run": 0}, "cpus_per_run=0 must be above 0", ("cpus_per_run",)),
        ("ray", 1, {"cpus_per_run": math.inf}, "cpus_per_run=inf must", ("cpus_per_run",)),
        ("ray", 1, {"gpus_per_run": -1}, "gpus_per_run=-1 must be 0", ("gpus_per_run",)),
        ("ray", 1, {"gpus_per_run": 1.5}, "gpus_per_run=1.5 must", ("gpus_per_run",)),
        ("ray", 1, {"gpus_per_run": math.nan}, "gpus_per_run=nan", ("gpus_per_run",)),
        ("ray", 1, {"timeout": 0}, "timeout=0 must be above 0 seconds", ("timeout",)),
        ("ray", 1, {"retries": -1}, "retries=-1 must be 0 or more", ("retries",)),
        ("ray", 1, {"address": " "}, "address is empty", ("address",)),
    ],
)
def test_what_does_not_go_together(backend, jobs, given, message, settings):
    with pytest.raises(UserError) as error:
        choose_backend(backend, jobs, 2, **given)
    assert message in str(error.value)
    assert error.value.settings == settings


def test_without_ray_one_line_names_the_extra(monkeypatch):
    monkeypatch.setattr("epi_bench.runs.ray_cluster.find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        choose_backend("ray", 1, 2)
    assert str(error.value) == (
        'the backend ray needs Ray, which is not installed: pip install "epi-bench[ray]"'
    )

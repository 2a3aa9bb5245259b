"""Several strategies and seeds: their specifications, and processes that run them side by side."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from epi_bench.errors import UserError
from epi_bench.results.record.record_file import load_record
from epi_bench.runs.launch import run_one
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.references import reference_spec
from epi_bench.runs.request import RunOutcome, RunRequest, for_references
from epi_bench.spec.run_spec import RunSpec, StrategySpec
from epi_bench.spec.toml import spec_to_toml


def expand(
    spec: RunSpec, strategies: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]
) -> list[RunSpec]:
    """The specifications of every strategy with every seed, seed by seed.

    Args:
        spec: What all have in common.
        strategies: Strategy name -> its options.
        seeds: One run each.
    """
    return [
        spec.model_copy(
            update={"strategy": StrategySpec(name=name, options=dict(options)), "seed": seed}
        )
        for seed in seeds
        for name, options in strategies.items()
    ]


def make_reference(spec: RunSpec, request: RunRequest, observer: RunObserver) -> None:
    """Train one single-task reference, unless it is there; a failure is a warning.

    Args:
        spec: As :func:`reference_spec` gives it.
        request: How runs are made.
        observer: Listens.
    """
    plain = for_references(replace(request, save_model=None))
    outcome = run_one(spec, plain, observer)
    if outcome.record is not None and not outcome.succeeded:
        observer.warning(
            f"the single-task reference of {spec.data.tasks[0]!r} failed, so the metrics that "
            f"need it stay undefined: {outcome.record.error}"
        )


def run_in_process(
    specs: Sequence[RunSpec], request: RunRequest, observer: RunObserver
) -> Iterator[RunOutcome]:
    """Make one run after the other in this process; a failing one does not stop the others."""
    attempted: set[str] = set()
    for spec in specs:
        try:
            if request.references:
                for task in spec.data.tasks:
                    reference = reference_spec(spec, task)
                    if reference.model_dump_json() not in attempted:
                        attempted.add(reference.model_dump_json())
                        make_reference(reference, request, observer)
            yield run_one(spec, request, observer)
        except UserError as error:
            yield RunOutcome(spec, None, error=str(error), settings=error.settings)


def run_in_subprocesses(
    specs: Sequence[RunSpec], request: RunRequest, jobs: int
) -> Iterator[RunOutcome]:
    """Make up to ``jobs`` runs at a time, each in a process of its own, in the order they end.

    References are made first, so that no two processes train the same one.
    """
    if request.references:
        firsts = {
            reference_spec(spec, task).model_dump_json(): reference_spec(spec, task)
            for spec in specs
            for task in spec.data.tasks
        }
        plain = for_references(replace(request, references=False))
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda spec: _subprocess_run(spec, plain), firsts.values()))
    if request.judge:
        request = replace(request, judge=request.judge.shared_by(jobs))
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(_subprocess_run, spec, request) for spec in specs]
        for future in as_completed(futures):
            yield future.result()


def _subprocess_run(spec: RunSpec, request: RunRequest) -> RunOutcome:
    with tempfile.TemporaryDirectory(prefix="epi-bench-") as folder:
        config = Path(folder) / "run.toml"
        report = Path(folder) / "report.txt"
        config.write_text(spec_to_toml(spec, {"locations": request.locations}), encoding="utf-8")
        command = [sys.executable, "-m", "epi_bench", "run", "--config", str(config)]
        command += ["--out", str(request.workspace.out), "--quiet", "--report", str(report)]
        command += [] if request.published else ["--no-publish"]
        command += ["--force"] if request.force else []
        command += ["--log-predictions"] if request.log_predictions else []
        command += ["--allow-code-execution"] if request.allow_code_execution else []
        command += request.judge.flags() if request.judge else []
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if not report.is_file():
            lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
            return RunOutcome(spec, None, error=lines[-1].removeprefix("epi-bench: "))
        status, path = report.read_text(encoding="utf-8").strip().split(" ", 1)
    return RunOutcome(spec, load_record(Path(path)), Path(path), skipped=status == "skipped")

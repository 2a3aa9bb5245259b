"""Making the runs of one command and printing what came out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import typer
from rich.console import Console

from epi_bench.cli.flag_names import with_flags
from epi_bench.cli.progress import LiveProgress
from epi_bench.cli.summary import print_outcomes, print_record
from epi_bench.runs.many_runs import run_in_process, run_in_subprocesses
from epi_bench.runs.observer import RunObserver, logged_warnings
from epi_bench.runs.request import RunOutcome, RunRequest
from epi_bench.spec.run_spec import RunSpec


def execute(
    specs: Sequence[RunSpec], request: RunRequest, jobs: int, quiet: bool, report: Path | None
) -> None:
    """Make all runs, print their results, and exit with the fitting code.

    Args:
        specs: The runs.
        request: How they are made.
        jobs: Runs at a time; more than one uses a process for each.
        quiet: Print nothing but errors.
        report: File that receives ``finished|skipped|failed PATH`` of a single run, or ``None``.

    Raises:
        typer.Exit: 2 if no run could start, 1 if a run failed.
    """
    _quieten_transformers()
    console = Console(quiet=quiet)
    outcomes: list[RunOutcome] = []
    warnings: list[str] = []
    progress = LiveProgress(console) if not quiet and jobs == 1 else None
    try:
        with progress or nullcontext():
            for outcome in _outcomes(specs, request, jobs, progress or RunObserver()):
                known = outcome.error in [earlier.error for earlier in outcomes]
                outcomes.append(outcome)
                if outcome.error and not known:  # a wrong flag is the same for all strategies
                    typer.echo(
                        f"epi-bench: {with_flags(outcome.error, outcome.settings)}", err=True
                    )
                if progress is None:  # the run was made in a process that says nothing
                    warnings += _warn(outcome, request, warnings, console)
                _announce(outcome, len(outcomes), len(specs), console)
    except KeyboardInterrupt:
        typer.echo("epi-bench: interrupted; the run under way left no record", err=True)
        raise typer.Exit(130) from None
    if report and outcomes and outcomes[0].path:
        status = "skipped" if outcomes[0].skipped else str(outcomes[0].record.status)  # type: ignore[union-attr]
        report.write_text(f"{status} {outcomes[0].path.resolve()}", encoding="utf-8")
    if len(outcomes) == 1 and outcomes[0].record:
        print_record(outcomes[0], console)
    elif len(outcomes) > 1:
        print_outcomes(outcomes, request.workspace, console)
    if outcomes and all(outcome.error for outcome in outcomes):
        raise typer.Exit(2)
    if not all(outcome.succeeded for outcome in outcomes):
        raise typer.Exit(1)


def _outcomes(
    specs: Sequence[RunSpec], request: RunRequest, jobs: int, observer: RunObserver
) -> Iterator[RunOutcome]:
    if jobs > 1 and len(specs) > 1:
        return run_in_subprocesses(specs, request, jobs)
    return run_in_process(specs, request, observer)


def _warn(
    outcome: RunOutcome, request: RunRequest, known: Sequence[str], console: Console
) -> list[str]:
    """Print what a run warned of that no other run has; what was printed."""
    if outcome.record is None or outcome.skipped:
        return []
    told = logged_warnings(request.workspace.events_path(outcome.record.run_id))
    new = [message for message in told if message not in known]
    for message in new:
        console.print(f"warning: {with_flags(message)}", style="yellow", markup=False)
    return new


def _announce(outcome: RunOutcome, done: int, total: int, console: Console) -> None:
    spec = outcome.spec
    if outcome.record and outcome.record.error:
        typer.echo(f"epi-bench: {spec.strategy.name} failed: {outcome.record.error}", err=True)
    if outcome.skipped:
        console.print(
            f"{spec.strategy.name}, seed {spec.seed}: finished before, not made again "
            "(--force makes it anew)"
        )
    if total > 1:
        console.print(f"[{done}/{total}] {spec.strategy.name}, seed {spec.seed}", markup=False)


def _quieten_transformers() -> None:
    """Its progress bars and hints would break the live display."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()

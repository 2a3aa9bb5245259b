"""Making the runs of one command and printing what came out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import typer
from rich.console import Console

from epi_bench.api.progress import LiveProgress
from epi_bench.cli.flag_names import with_flags
from epi_bench.cli.summary import print_outcomes, print_record
from epi_bench.files import bytes_in
from epi_bench.runs.many_runs import make_runs
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.quiet import quiet_libraries
from epi_bench.runs.request import RunOutcome, RunRequest
from epi_bench.runs.saving import KeepModel
from epi_bench.spec.run_spec import RunSpec
from epi_bench.tables import make_console


def execute(specs: Sequence[RunSpec], request: RunRequest, jobs: int, quiet: bool) -> None:
    """Make all runs, print their results, and exit with the fitting code.

    Args:
        specs: The runs.
        request: How they are made.
        jobs: Runs at a time; more than one uses a process for each.
        quiet: Print nothing but errors.

    Raises:
        typer.Exit: 2 if no run could start, 1 if a run failed or could not save its model.
    """
    console = make_console(quiet)
    outcomes: list[RunOutcome] = []
    progress = None if quiet else LiveProgress(console, with_flags)
    try:
        with quiet_libraries(), progress or nullcontext():
            for outcome in make_runs(specs, request, jobs, progress or RunObserver()):
                known = outcome.error in [earlier.error for earlier in outcomes]
                outcomes.append(outcome)
                if outcome.error and not known:  # a wrong flag is the same for all strategies
                    typer.echo(
                        f"epi-bench: {with_flags(outcome.error, outcome.settings)}", err=True
                    )
                _announce(outcome, len(outcomes), len(specs), console)
    except KeyboardInterrupt as stop:
        hint = getattr(stop, "hint", "") or "run the same command again to go on"
        typer.echo(f"epi-bench: interrupted; {hint}", err=True)
        raise typer.Exit(getattr(stop, "exit_code", 130)) from None
    if len(outcomes) == 1 and outcomes[0].record:
        print_record(outcomes[0], console)
    elif len(outcomes) > 1:
        print_outcomes(outcomes, request.workspace, console)
    if request.keep_model is not KeepModel.NONE:
        _print_models(outcomes, request, console)
    if outcomes and all(outcome.error for outcome in outcomes):
        raise typer.Exit(2)
    if not all(outcome.succeeded and not outcome.unsaved for outcome in outcomes):
        raise typer.Exit(1)


def _announce(outcome: RunOutcome, done: int, total: int, console: Console) -> None:
    spec = outcome.spec
    if outcome.record and outcome.record.error:
        typer.echo(f"epi-bench: {spec.strategy.name} failed: {outcome.record.error}", err=True)
    for problem in outcome.unsaved if console.quiet else ():  # else it was a warning
        typer.echo(f"epi-bench: {spec.strategy.name}, seed {spec.seed}: {problem}", err=True)
    if outcome.skipped:
        console.print(
            f"{spec.strategy.name}, seed {spec.seed}: finished before, so it was not run again "
            "(--force runs it again)",
            highlight=False,
            markup=False,
        )
    if total > 1:
        console.print(
            f"[{done}/{total}] {spec.strategy.name}, seed {spec.seed}",
            highlight=False,
            markup=False,
        )


def _print_models(outcomes: Sequence[RunOutcome], request: RunRequest, console: Console) -> None:
    """Where the models of the runs are, and how much of the disk they take."""
    folders = [
        request.workspace.run_folder(outcome.record.run_id)
        for outcome in outcomes
        if outcome.record
    ]
    size = sum(bytes_in(place / kind) for place in folders for kind in ("models", "adapters"))
    where = folders[0] if len(folders) == 1 else request.workspace.out / "runs" / "*"
    console.print(
        f"Models: {where / 'models'} ({size / 2**20:,.1f} MB)",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )

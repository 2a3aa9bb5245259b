"""Making the runs of one command and printing what came out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import typer
from rich.console import Console

from epi_bench.api.progress import LiveProgress
from epi_bench.cli.flag_names import with_flags
from epi_bench.cli.printing import complain
from epi_bench.cli.summary import print_outcomes, print_record
from epi_bench.files import bytes_in
from epi_bench.runs.backend import Backend
from epi_bench.runs.interruption import TERMINATED, exit_code, sigterm_interrupts
from epi_bench.runs.many_runs import make_runs
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.request import RunOutcome, RunRequest
from epi_bench.runs.saving import KeepModel
from epi_bench.spec.run_spec import RunSpec
from epi_bench.tables import make_console


def execute(
    specs: Sequence[RunSpec], request: RunRequest, backend: Backend | None, quiet: bool
) -> None:
    """Make all runs, print their results, and exit with the fitting code.

    Args:
        specs: The runs.
        request: How they are made.
        backend: What makes them; ``None`` makes one after the other in this process.
        quiet: Print nothing but errors.

    Raises:
        typer.Exit: 2 if no run could start, 1 if a run failed, now or before, or could not save its
            model; 130 after Ctrl-C, 143 after SIGTERM.
    """
    console = make_console(quiet)
    outcomes: list[RunOutcome] = []
    progress = None if quiet else LiveProgress(console, with_flags)
    try:
        with sigterm_interrupts(), progress or nullcontext():
            for outcome in make_runs(specs, request, backend, progress or RunObserver()):
                known = outcome.error in [earlier.error for earlier in outcomes]
                outcomes.append(outcome)
                if outcome.error and not known:  # a wrong flag is the same for all strategies
                    complain(with_flags(outcome.error, outcome.settings))
                _announce(outcome, len(outcomes), len(specs), console, told=backend is not None)
    except KeyboardInterrupt as stop:
        hint = getattr(stop, "hint", "") or "run the same command again to go on"
        what = "ended by SIGTERM" if exit_code(stop) == TERMINATED else "interrupted"
        complain(f"{what}; {hint}")
        raise typer.Exit(exit_code(stop)) from None
    if len(specs) == 1 and outcomes[0].record and not outcomes[0].skipped:
        print_record(outcomes[0], console)
    elif len(specs) > 1:
        print_outcomes(outcomes, request.workspace, console)
    if request.keep_model is not KeepModel.NONE:
        _print_models(outcomes, request, console)
    if outcomes and all(outcome.error for outcome in outcomes):
        raise typer.Exit(2)
    if not all(outcome.succeeded and not outcome.unsaved for outcome in outcomes):
        raise typer.Exit(1)


def _announce(outcome: RunOutcome, done: int, total: int, console: Console, *, told: bool) -> None:
    """One line for a run that was there before, or has ended, unless the display has told that."""
    title = f"{outcome.spec.label}, seed {outcome.spec.seed}"
    before = "failed before" if outcome.skipped else "failed"
    if outcome.record and outcome.record.error:
        complain(f"{outcome.spec.label} {before}: {outcome.record.error}")
    for problem in outcome.unsaved if console.quiet else ():  # else it was a warning
        complain(f"{title}: {problem}")
    line = f"[{done}/{total}] {title}" if total > 1 else title
    if outcome.skipped:
        flag = "--force" if outcome.succeeded else "--retry-failed"
        word = "finished before" if outcome.succeeded else before
        line += f": {word}, so it was not run again ({flag} runs it again)"
    if outcome.skipped and total == 1:
        line += f"\nRecord: {outcome.path}"
    if outcome.skipped or (total > 1 and not told):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


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

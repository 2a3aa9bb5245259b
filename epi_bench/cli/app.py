"""The Typer application and what every command shares: errors, plugins, the console."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from epi_bench import __version__
from epi_bench.cli.compare import compare
from epi_bench.cli.flag_names import message_of
from epi_bench.cli.inspect import inspect
from epi_bench.cli.leaderboard import leaderboard_app
from epi_bench.cli.listing import streams_app, tasks_app
from epi_bench.cli.plot import plot_app
from epi_bench.cli.printing import complain, say
from epi_bench.cli.profile import profile
from epi_bench.cli.run import run
from epi_bench.cli.settings import settings
from epi_bench.cli.similarity import compare_tasks
from epi_bench.cli.strategies import strategies_app
from epi_bench.cli.strategy_plugins import check_strategies, new_strategy
from epi_bench.cli.usage import explain_usage_in_one_line
from epi_bench.cli.validation import validate_tasks
from epi_bench.errors import UserError
from epi_bench.runs.quiet import hold_back_libraries
from epi_bench.tables import lasting_output
from epi_bench.tables.standard_output import reason_of

app = typer.Typer(
    name="epi-bench",
    help=(
        "Fine-tune a language model on several tasks with several strategies, and see which one "
        "keeps the old abilities while it learns the new ones, and at what cost."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run)
app.add_typer(leaderboard_app, name="leaderboard")
app.command()(compare)
strategies_app.command("new")(new_strategy)
strategies_app.command("check")(check_strategies)
tasks_app.command("validate")(validate_tasks)
tasks_app.command("similarity")(compare_tasks)
app.command()(inspect)
app.command()(profile)
app.add_typer(plot_app, name="plot")
app.add_typer(strategies_app, name="strategies")
app.add_typer(tasks_app, name="tasks")
app.command()(settings)
app.add_typer(streams_app, name="streams")
explain_usage_in_one_line(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"epi-bench {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Nothing of its own; holds ``--version``."""


def main() -> None:
    """Entry point of ``epi-bench``: user errors are one line and exit code 2.

    Whatever becomes of the output, a command does its work to the end. A reader of a pipe who
    leaves early changes nothing; output that could not be written otherwise is one line, and exit
    code 1 in place of 0.
    """
    hold_back_libraries()
    with lasting_output() as output:
        code = _exit_code()
        output.flush()
        if output.failure is not None and output.has_lost_text:
            complain(f"the output could not be written: {reason_of(output.failure)}")
            code = code or 1
    sys.exit(code)


def _exit_code() -> Any:
    """Do what the command line asks for."""
    try:
        app(prog_name="epi-bench")
    except UserError as error:
        complain(message_of(error))
        return 2
    except OSError as error:
        if not isinstance(error.filename, str | bytes):  # not about a file that somebody named
            raise
        file = os.fsdecode(error.filename)
        problem = UserError(f"cannot use {file}: {error.strerror or error}")
        complain(message_of(problem))
        return 2
    except SystemExit as ended:
        return ended.code
    return 0

"""``epi-bench strategies new|check``: begin a strategy of one's own, and check that it works."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from epi_bench.cli import completion
from epi_bench.cli.listing import PluginFiles
from epi_bench.cli.output import OutputFormat, TableFormat, show_table
from epi_bench.cli.printing import complain, say
from epi_bench.errors import UserError
from epi_bench.plugins.loading import load_plugin_file, load_plugin_files
from epi_bench.strategy.scaffold import Kind, write_scaffold
from epi_bench.tables import Column, FittedTable

if TYPE_CHECKING:
    from epi_bench.testing.checks import CheckOutcome


def new_strategy(
    name: Annotated[str, typer.Argument(help="Letters, digits and underscores.")],
    kind: Annotated[
        Kind,
        typer.Option(
            help="What it begins as: plain changes the optimizer's step, mask holds weights still, "
            "penalty draws them back."
        ),
    ] = Kind.PLAIN,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where its files go; made if it is missing.")
    ] = Path(),
) -> None:
    """Begin a strategy of your own: a file that runs as it is, and a test for it."""
    plugin, test = write_scaffold(name, kind, out)
    say(f"{plugin}: the strategy; {test}: its test")
    say(f"check it:  epi-bench strategies check {plugin}")
    say(f"run it:    epi-bench run --plugin {plugin} --strategy {name},full_sft")


def check_strategies(
    strategy: Annotated[
        str,
        typer.Argument(
            metavar="FILE|NAME",
            help="A .py file, whose strategies are all checked, or the name of a strategy.",
            autocompletion=completion.strategy,
        ),
    ],
    set_option: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[STRATEGY.]NAME=VALUE",
            help="Option, chosen so that the strategy acts within six steps; repeatable.",
        ),
    ] = None,
    plugin: PluginFiles = None,
    output_format: TableFormat = OutputFormat.TABLE,
) -> None:
    """Train a strategy on two toy tasks in several ways; exit with code 1 if a check fails.

    It is checked that its hooks are called as they should be, that the same seed gives the same
    weights, that an interrupted run ends as one that was not, that its memory is reported, and
    more. Takes seconds, needs no GPU and writes nothing.
    """
    from epi_bench.api.selection import assigned_options
    from epi_bench.testing.checks import run_checks

    load_plugin_files(plugin or [])
    names = _names(strategy)
    options = assigned_options(set_option or [], names)
    outcomes: list[tuple[str, CheckOutcome]] = []
    for name in names:
        report = run_checks(name, options[name])
        outcomes += [(name, outcome) for outcome in report.outcomes]
        for warning in report.warnings:
            complain(f"warning: {name}: {warning}")
    columns = [Column("check"), Column("passed"), Column("what to do", text=True)]
    rows: list[tuple[Any, ...]] = [
        (outcome.check, "no" if outcome.problem else "yes", outcome.problem or "")
        for _, outcome in outcomes
    ]
    if len(names) > 1:
        columns.insert(0, Column("strategy"))
        rows = [(name, *row) for (name, _), row in zip(outcomes, rows, strict=True)]
    show_table(FittedTable(columns, rows), output_format)
    if any(outcome.problem for _, outcome in outcomes):
        raise typer.Exit(1)


def _names(strategy: str) -> list[str]:
    """The strategy of that name, or those that a file registers."""
    from epi_bench.strategy.strategy import STRATEGIES

    if not strategy.endswith(".py"):
        STRATEGIES.get(strategy)
        return [strategy]
    before = set(STRATEGIES.names())
    load_plugin_file(Path(strategy))
    names = sorted(set(STRATEGIES.names()) - before)
    if not names:
        raise UserError(
            f"{strategy} registers no strategy: mark its class with @register_strategy(NAME)"
        )
    return names

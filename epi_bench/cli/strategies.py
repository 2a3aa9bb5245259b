"""``epi-bench strategies list|show``: which strategies there are, by what they need and cost."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from epi_bench.cli import completion
from epi_bench.cli.docstrings import first_sentence, without_markup
from epi_bench.cli.listing import (
    PluginFiles,
    hint,
    print_description,
    print_options,
    warn_of_broken,
)
from epi_bench.cli.output import OutputFormat, TableFormat, echo_json, show_table
from epi_bench.foreign_text import json_text
from epi_bench.plugins.loading import load_plugin_files
from epi_bench.tables import Column, FittedTable, make_console

if TYPE_CHECKING:
    from rich.console import Console

    from epi_bench.strategy.catalogue import StrategyEntry

strategies_app = typer.Typer(
    help="List strategies, show one, begin one of your own, or check one.", no_args_is_help=True
)

_CITATION = re.compile(r" \([^()]*arXiv[^()]*\)")

_HINT = """Options of one: epi-bench strategies show NAME
All of a family: epi-bench run --strategy FAMILY
needs: what it cannot do without (old data: examples of earlier experiences are kept)
bytes: kept for each parameter, beside model and optimizer; +: grows with the experiences
strength: the option that trades learning for keeping"""


@strategies_app.command("list")
def list_strategies(
    plugin: PluginFiles = None, output_format: TableFormat = OutputFormat.TABLE
) -> None:
    """List every strategy by family: what it does, what it needs, and what it keeps in memory."""
    from epi_bench.strategy.catalogue import catalogue
    from epi_bench.strategy.facts import FAMILIES
    from epi_bench.strategy.strategy import STRATEGIES

    load_plugin_files(plugin or [])
    strategies, broken = STRATEGIES.load_all()
    groups = catalogue(strategies)
    entries = [entry for group in groups.values() for entry in group]
    if output_format is OutputFormat.JSON:
        echo_json(json_text([_as_json(entry) for entry in entries]) + "\n")
    elif output_format is OutputFormat.TABLE:
        console = make_console()
        for number, (family, group) in enumerate(groups.items()):
            if number:
                console.print()
            console.print(_table(group, f"{family}: {FAMILIES[family]}"))
    else:
        show_table(_whole_table(entries), output_format)
    hint(_HINT, output_format)
    warn_of_broken(broken)


@strategies_app.command("show")
def show_strategy(
    name: Annotated[str, typer.Argument(autocompletion=completion.strategy)],
    plugin: PluginFiles = None,
) -> None:
    """Show a strategy's update rule, source, needs and hyperparameters."""
    from epi_bench.strategy.catalogue import entry_of
    from epi_bench.strategy.strategy import STRATEGIES

    load_plugin_files(plugin or [])
    cls = STRATEGIES.get(name)
    console = make_console()
    print_description(name, cls, console)
    _print_facts(entry_of(name, cls), console)
    print_options(cls, 0, f"Set with --set {name}.NAME=VALUE", console)


def _table(entries: list[StrategyEntry], title: str) -> FittedTable:
    """Strategies of one family, for readers."""
    columns = [
        Column("strategy"),
        Column("what it does", text=True),
        Column("needs"),
        Column("bytes"),
        Column("strength"),
    ]
    rows = [
        (
            entry.name,
            _summary(entry),
            ", ".join(entry.needs),
            _number(entry.bytes_per_parameter),
            entry.trade_off.option if entry.trade_off else "",
        )
        for entry in entries
    ]
    return FittedTable(columns, rows, title)


def _whole_table(entries: list[StrategyEntry]) -> FittedTable:
    """All strategies in one table, for CSV and Markdown."""
    titles = ["name", "family", "what it does", "needs", "bytes a parameter", "acts from"]
    titles += ["strength", "values from weak to strong"]
    rows = [
        (
            entry.name,
            entry.family,
            _summary(entry),
            ", ".join(entry.needs),
            entry.bytes_per_parameter,
            str(entry.acts_from),
            entry.trade_off.option if entry.trade_off else "",
            ", ".join(f"{v:g}" for v in entry.trade_off.values) if entry.trade_off else "",
        )
        for entry in entries
    ]
    return FittedTable([Column(title) for title in titles], rows)


def _as_json(entry: StrategyEntry) -> dict[str, Any]:
    chosen = entry.trade_off
    return {
        "name": entry.name,
        "family": entry.family,
        "summary": _summary(entry),
        "needs": list(entry.needs),
        "bytes_per_parameter": entry.bytes_per_parameter or None,
        "acts_from": entry.acts_from,
        "trade_off": {"option": chosen.option, "values": list(chosen.values)} if chosen else None,
        "sources": [f"https://arxiv.org/abs/{number}" for number in entry.sources],
        "evidence": without_markup(entry.evidence) or None,
    }


def _print_facts(entry: StrategyEntry, console: Console) -> None:
    """What a strategy says about itself, where it says something."""
    from epi_bench.strategy.facts import FAMILIES, NEEDS

    facts = [("family", f"{entry.family}: {FAMILIES[entry.family]}")]
    facts += [("needs", NEEDS[need]) for need in entry.needs]
    if entry.bytes_per_parameter:
        kept = f"{_formula(entry.bytes_per_parameter)} bytes a parameter at most, beside the model"
        facts.append(("keeps", kept))
    if entry.acts_from:
        facts.append(("acts", f"from experience {entry.acts_from + 1} on"))
    if entry.trade_off:
        values = ", ".join(f"{value:g}" for value in entry.trade_off.values)
        facts.append(("strength", f"{entry.trade_off.option}, from weak to strong: {values}"))
    if entry.evidence:
        facts.append(("known", without_markup(entry.evidence)))
    console.print()
    console.print(FittedTable([Column(""), Column("", text=True)], facts))


def _summary(entry: StrategyEntry) -> str:
    """The first line of the documentation without the papers that it cites."""
    return _CITATION.sub("", first_sentence(entry.strategy))


def _number(formula: str) -> str:
    """The number that a formula begins with, and ``+`` if there is more; tables are narrow."""
    number = re.match(r"[\d.]+(?=$| \+)", formula)
    if number is None:
        return "0+" if formula else ""
    return number[0] + ("+" if number[0] != formula else "")


def _formula(text: str) -> str:
    return text.replace(" * ", " × ")

"""``epi-bench strategies|tasks|streams``: what there is, and what each one does."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from epi_bench.errors import one_line
from epi_bench.plugins.loading import load_plugin_files
from epi_bench.plugins.options import Option, options_of
from epi_bench.plugins.registry import Registry

PluginFiles = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="Python file that registers more; repeatable."),
]
DataFolder = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="EPI_BENCH_DATA",
        help="Folder with local data sets instead of the hub.",
    ),
]
ModelName = Annotated[
    str, typer.Option("--model", help="Whose chat template and tokenizer formats the example.")
]

strategies_app = typer.Typer(help="List strategies, or show one.", no_args_is_help=True)
tasks_app = typer.Typer(
    help="List tasks, show one, or check a file that describes one.", no_args_is_help=True
)
streams_app = typer.Typer(help="List streams, or show one.", no_args_is_help=True)

_ORDERS = "Task order of every stream: --order given | reversed | random (by seed)"


@strategies_app.command("list")
def list_strategies(plugin: PluginFiles = None) -> None:
    """List every strategy with one line about it."""
    from epi_bench.strategy.strategy import STRATEGIES

    load_plugin_files(plugin or [])
    _print_registry(STRATEGIES, "Strategies")


@strategies_app.command("show")
def show_strategy(name: str, plugin: PluginFiles = None) -> None:
    """Show a strategy's update rule, source and hyperparameters."""
    from epi_bench.strategy.strategy import STRATEGIES

    load_plugin_files(plugin or [])
    cls = STRATEGIES.get(name)
    console = Console()
    _print_description(name, cls, console)
    _print_options(cls, 0, f"Set with --set {name}.NAME=VALUE", console)


@tasks_app.command("list")
def list_tasks(plugin: PluginFiles = None) -> None:
    """List every task (ability, how it is scored, licence, origin) and every suite."""
    from epi_bench.task.task import TASKS

    load_plugin_files(plugin or [])
    console = Console()
    table = Table(title="Tasks", title_justify="left")
    for column in ("task", "ability", "scoring", "metric", "licence", "origin", ""):
        table.add_column(column)
    tasks, broken = TASKS.load_all()
    for name, task in tasks.items():
        card = task.card
        origin = card.source.hub_id if card.source else "generated"
        cells = (name, card.ability, card.scoring, card.metric, card.licence, origin, card.summary)
        table.add_row(*map(plain, cells))
    console.print(table)
    console.print(_suites_table())
    console.print("Your own: --tasks FILE.toml, a file that describes a task or a suite")
    _warn_of_broken(broken)


@tasks_app.command("show")
def show_task(
    name: str,
    data_dir: DataFolder = None,
    model: ModelName = "tiny",
    plugin: PluginFiles = None,
    task_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Option of the task; repeatable."),
    ] = None,
    index: Annotated[int, typer.Option(min=0, help="Which training example.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="How many, from there on.")] = 1,
) -> None:
    """Show a task's card and examples as the model sees them, the supervised part marked.

    NAME is a task, or a .toml file that describes one.
    """
    from epi_bench.api.selection import split_assignment
    from epi_bench.cli.show import render_example
    from epi_bench.spec.run_spec import ModelSpec
    from epi_bench.task.files.file_task import task_type
    from epi_bench.task.task import create_task

    load_plugin_files(plugin or [])
    cls = task_type(name)
    options = dict(map(split_assignment, task_option or []))
    options = {key.removeprefix(f"{cls.name}."): value for key, value in options.items()}
    task = create_task(cls.name, data_dir, options)
    console = Console()
    examples = [render_example(task, ModelSpec(name=model), index + i) for i in range(count)]
    console.print(_card_table(task))
    _print_options(cls, 1, f"Set with --task-option {cls.name}.NAME=VALUE", console)
    for example in examples:
        console.print(example)


@streams_app.command("list")
def list_streams(plugin: PluginFiles = None) -> None:
    """List every stream with its options."""
    from epi_bench.spec.streams import STREAMS

    load_plugin_files(plugin or [])
    console = Console()
    streams, broken = STREAMS.load_all()
    for name, builder in streams.items():
        console.print(Text.assemble((name, "bold"), "  ", _first_line(builder)))
        _print_options(builder, 1, "Set with --stream-option NAME=VALUE", console)
    console.print(_ORDERS)
    _warn_of_broken(broken)


@streams_app.command("show")
def show_stream(name: str, plugin: PluginFiles = None) -> None:
    """Show what a stream trains in which order, and its options."""
    from epi_bench.spec.streams import STREAMS

    load_plugin_files(plugin or [])
    builder = STREAMS.get(name)
    console = Console()
    _print_description(name, builder, console)
    _print_options(builder, 1, "Set with --stream-option NAME=VALUE", console)
    console.print(_ORDERS)


def _print_registry(registry: Registry[Any], title: str) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("name")
    table.add_column("")
    items, broken = registry.load_all()
    for name, item in items.items():
        table.add_row(name, plain(_first_line(item)))
    Console().print(table)
    _warn_of_broken(broken)


def _warn_of_broken(broken: list[Any]) -> None:
    for plugin in broken:
        typer.echo(f"epi-bench: warning: {plugin.error}", err=True)


def _suites_table() -> Table:
    from epi_bench.task.files.suites import builtin_suites

    table = Table(title="Suites", title_justify="left")
    for column in ("suite", "tasks", ""):
        table.add_column(column)
    for name, suite in builtin_suites().items():
        table.add_row(name, ", ".join(suite.tasks), suite.definition.summary)
    return table


def _card_table(task: Any) -> Table:
    from epi_bench.task.files.file_task import FileTask
    from epi_bench.task.rows.source import SPLITS

    card = task.card
    title = plain(f"{task.name}: {card.summary}")
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    direction = "higher is better" if card.higher_is_better else "lower is better"
    rows = [
        ("ability", card.ability),
        ("scoring", card.scoring),
        (
            "metric",
            f"{card.metric} ({direction}, {card.metric_range[0]} to {card.metric_range[1]})",
        ),
        ("chance", "next to nothing" if card.chance is None else f"{card.chance:g} of 100"),
        ("longest answer", f"{card.max_new_tokens} tokens"),
        ("licence", card.licence),
    ]
    if card.source:
        config = f" (config {card.source.config})" if card.source.config else ""
        rows.append(("origin", f"{card.source.hub_id}{config} @ {card.source.revision}"))
        rows.append(
            ("splits", ", ".join(f"{ours} = {hub}" for ours, hub in card.source.splits.items()))
        )
    elif isinstance(task, FileTask):
        rows.append(("origin", str(task.file.path)))
        rows += [(split, str(task.locate_rows(split))) for split in SPLITS]
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def _print_description(name: str, item: Any, console: Console) -> None:
    console.print(Text(name, style="bold"))
    for line in _body(item).split("\n"):
        console.print(plain(line))


def _print_options(item: Any, skip: int, title: str, console: Console) -> None:
    options = options_of(item, skip)
    if options:
        console.print(_options_table(options, title))


def _options_table(options: dict[str, Option], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("option", "type", "default", "meaning"):
        table.add_column(column, overflow="fold")
    for option in options.values():
        default = "required" if option.default is inspect.Parameter.empty else str(option.default)
        cells = (option.name, option.type_name, default, option.description)
        table.add_row(*map(plain, cells))
    return table


def plain(text: str) -> Text:
    """Text of a plugin or of data as it is: no markup, no terminal codes."""
    return Text(one_line(text))


def _first_line(item: Any) -> str:
    return one_line((inspect.getdoc(item) or "").split("\n", 1)[0])


def _body(item: Any) -> str:
    """The docstring without its ``Args`` section, which is shown as a table."""
    return (inspect.getdoc(item) or "").split("\nArgs:", 1)[0].rstrip() + "\n"

"""``epi-bench tasks|streams``: what there is, and what each one does; how both are shown."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from epi_bench.cli import completion
from epi_bench.cli.docstrings import description, first_sentence, without_markup
from epi_bench.cli.output import OutputFormat, TableFormat, show_table
from epi_bench.cli.printing import complain
from epi_bench.plugins.loading import load_plugin_files
from epi_bench.plugins.options import options_of
from epi_bench.tables import Column, FittedTable, make_console

if TYPE_CHECKING:
    from rich.console import Console

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

tasks_app = typer.Typer(
    help="List tasks, show one, or check a file that describes one.", no_args_is_help=True
)
streams_app = typer.Typer(help="List streams, or show one.", no_args_is_help=True)

_ORDERS = "Task order of every stream: --order given | reversed | random (by seed)"


@tasks_app.command("list")
def list_tasks(plugin: PluginFiles = None, output_format: TableFormat = OutputFormat.TABLE) -> None:
    """List every task (ability, how it is scored, licence, origin) and every suite."""
    from epi_bench.task.files.suites import builtin_suites
    from epi_bench.task.task import TASKS

    load_plugin_files(plugin or [])
    tasks, broken = TASKS.load_all()
    rows = []
    for name, task in tasks.items():
        card = task.card
        origin = card.source.hub_id if card.source else "generated"
        rows.append(
            (name, card.summary, card.ability, card.scoring, card.metric, card.licence, origin)
        )
    columns = [
        Column("task"),
        Column("what it is", text=True),
        Column("ability"),
        Column("scoring"),
        Column("metric"),
        Column("licence", text=True),
        Column("origin"),
    ]
    show_table(FittedTable(columns, rows, "Tasks"), output_format)
    if output_format is OutputFormat.TABLE:
        suites = [
            (name, ", ".join(suite.tasks), suite.definition.summary)
            for name, suite in builtin_suites().items()
        ]
        columns = [Column("suite"), Column("tasks", text=True), Column("what it is", text=True)]
        console = make_console()
        console.print()
        console.print(FittedTable(columns, suites, "Suites"))
    hint("Your own: --tasks FILE.toml, a file that describes a task or a suite", output_format)
    warn_of_broken(broken)


@tasks_app.command("show")
def show_task(
    name: Annotated[str, typer.Argument(autocompletion=completion.task)],
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
    console = make_console()
    examples = [render_example(task, ModelSpec(name=model), index + i) for i in range(count)]
    console.print(_card_table(task))
    print_options(cls, 1, f"Set with --task-option {cls.name}.NAME=VALUE", console)
    for example in examples:
        console.print(example)


@streams_app.command("list")
def list_streams(
    plugin: PluginFiles = None, output_format: TableFormat = OutputFormat.TABLE
) -> None:
    """List every stream with one line about it."""
    from epi_bench.spec.streams import STREAMS

    load_plugin_files(plugin or [])
    streams, broken = STREAMS.load_all()
    show_table(described("stream", streams), output_format)
    hint(f"Options of one: epi-bench streams show NAME\n{_ORDERS}", output_format)
    warn_of_broken(broken)


@streams_app.command("show")
def show_stream(name: str, plugin: PluginFiles = None) -> None:
    """Show what a stream trains in which order, and its options."""
    from epi_bench.spec.streams import STREAMS

    load_plugin_files(plugin or [])
    builder = STREAMS.get(name)
    console = make_console()
    print_description(name, builder, console)
    print_options(builder, 1, "Set with --stream-option NAME=VALUE", console)
    console.print()
    console.print(_ORDERS, highlight=False, markup=False)


def described(kind: str, items: Mapping[str, Any]) -> FittedTable:
    """Names with the first sentences of their docstrings."""
    rows = [(name, first_sentence(item)) for name, item in items.items()]
    return FittedTable([Column(kind), Column("what it does", text=True)], rows)


def hint(text: str, output_format: OutputFormat) -> None:
    """Where to look next; other programs read no hints."""
    if output_format is OutputFormat.TABLE:
        make_console().print(f"\n{text}", style="dim", highlight=False, markup=False)


def warn_of_broken(broken: Sequence[Any]) -> None:
    """One line for each plugin that cannot be used."""
    for plugin in broken:
        complain(f"warning: {plugin.error}")


def _card_table(task: Any) -> FittedTable:
    from epi_bench.task.files.file_task import FileTask
    from epi_bench.task.rows.source import SPLITS

    card = task.card
    direction = "higher is better" if card.higher_is_better else "lower is better"
    rows = [
        ("ability", card.ability),
        ("scoring", card.scoring),
        (
            "metric",
            f"{card.metric} ({direction}, {card.metric_range[0]} to {card.metric_range[1]})",
        ),
        ("chance", "practically 0" if card.chance is None else f"{card.chance:g} of 100"),
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
    title = f"{task.name}: {card.summary}"
    return FittedTable([Column(""), Column("", text=True)], rows, title)


def print_description(name: str, item: Any, console: Console) -> None:
    """The name, and the docstring without its arguments."""
    console.print(name, style="bold", highlight=False, markup=False)
    console.print(description(item))


def print_options(item: Any, skip: int, title: str, console: Console) -> None:
    """A table of the options; nothing where there are none."""
    options = options_of(item, skip)
    if not options:
        return
    columns = [
        Column("option"),
        Column("type", text=True),
        Column("default"),
        Column("meaning", text=True),
    ]
    rows = [
        (
            option.name,
            option.type_name,
            "required" if option.default is inspect.Parameter.empty else str(option.default),
            without_markup(option.description),
        )
        for option in options.values()
    ]
    console.print()
    console.print(FittedTable(columns, rows, title))

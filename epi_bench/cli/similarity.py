"""``epi-bench tasks similarity``: how alike the questions of tasks are."""

from __future__ import annotations

from typing import Annotated

import typer

from epi_bench.cli.listing import DataFolder, PluginFiles
from epi_bench.cli.output import OutputFormat, TableFormat, show_table
from epi_bench.errors import UserError
from epi_bench.plugins.loading import load_plugin_files
from epi_bench.results.tables import Column, FittedTable


def compare_tasks(
    tasks: Annotated[
        str,
        typer.Argument(
            metavar="TASKS",
            help="Names of tasks or suites, or .toml files that describe them, separated by "
            "commas.",
        ),
    ],
    data_dir: DataFolder = None,
    plugin: PluginFiles = None,
    output_format: TableFormat = OutputFormat.TABLE,
) -> None:
    """Show how alike the training prompts of tasks are: the cosine of their words (TF-IDF).

    Tasks with alike prompts may still want opposite answers: a run's gradient conflict says whether
    they pull the weights in opposite directions.
    """
    from epi_bench.api.selection import split_names
    from epi_bench.task.files.selection import select_tasks
    from epi_bench.task.similarity import prompt_similarity, prompt_text
    from epi_bench.task.task import create_task

    load_plugin_files(plugin or [])
    names = list(dict.fromkeys(select_tasks(split_names(tasks)).names))
    if len(names) < 2:
        raise UserError(f"{tasks} is one task: name at least two, separated by commas")
    prompts = {
        name: [prompt_text(example) for example in create_task(name, data_dir).examples("train")]
        for name in names
    }
    columns = [Column("task"), *(Column(name, numeric=True) for name in names)]
    rows = [
        (name, *(f"{value:.2f}" for value in row))
        for name, row in zip(names, prompt_similarity(prompts), strict=True)
    ]
    title = "Similarity of the training prompts (0 to 1)"
    show_table(FittedTable(columns, rows, title), output_format)

"""Loading the files that were given with ``--plugin``."""

from __future__ import annotations

from pathlib import Path

import typer

from epi_bench.errors import UserError
from epi_bench.registry import load_plugin_file


def load_plugins(paths: list[Path]) -> None:
    """Import each file; one that fails is named on standard error, the others still count.

    A name that only the failing file would have brought is then unknown, which stops the command.
    """
    for path in paths:
        try:
            load_plugin_file(path)
        except UserError as error:
            typer.echo(f"epi-bench: warning: {error}", err=True)

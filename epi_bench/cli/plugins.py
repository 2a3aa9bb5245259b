"""Loading the files that were given with ``--plugin``."""

from __future__ import annotations

from pathlib import Path

from epi_bench.plugin_loading import load_plugin_file


def load_plugins(paths: list[Path]) -> None:
    """Import each file; the first that fails stops the command.

    Raises:
        UserError: If a file is missing, fails or registers nothing.
    """
    for path in paths:
        load_plugin_file(path)

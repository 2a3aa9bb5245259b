"""``epi-bench settings``: every setting of a run, and the same as a page of the documentation."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from epi_bench.cli.output import echo_json
from epi_bench.foreign_text import json_text, terminal_text
from epi_bench.spec.settings import Setting, all_settings
from epi_bench.tables import make_console


class SettingsFormat(StrEnum):
    """How the settings are printed."""

    TABLE = "table"
    JSON = "json"


def settings(
    output_format: Annotated[
        SettingsFormat, typer.Option("--format", help="JSON holds the whole description of each.")
    ] = SettingsFormat.TABLE,
) -> None:
    """List every setting of a run: name, flag, type, range, default and meaning.

    The name is the one in run.toml, in messages, and in the settings of the Python API.
    """
    if output_format is SettingsFormat.JSON:
        rows = [_as_json(setting) for setting in all_settings().values()]
        echo_json(json_text(rows))
    else:
        _print_table()


def settings_page() -> str:
    """The reference page of the documentation, in Markdown."""
    sections: dict[str, list[Setting]] = {}
    for setting in all_settings().values():
        sections.setdefault(setting.name.rpartition(".")[0], []).append(setting)
    parts = [_PAGE_HEAD]
    for section, members in sections.items():
        parts.append(f"\n## {f'`[{section}]`' if section else 'Beside the sections'}\n")
        parts += [_entry(setting) for setting in members]
    return "\n".join(parts)


_PAGE_HEAD = """\
# Settings

<!-- Made from the fields of the specification by scripts/write_settings_page.py. -->

Every setting that can change a run's numbers. The name is the one in `run.toml`, in messages, and
in the settings of the Python API; the flag is that of `epi-bench run`. Flags override a file, a
file overrides what a suite brings, and that overrides the defaults below. `epi-bench settings`
prints this list.
"""


def _entry(setting: Setting) -> str:
    notes = [setting.type_name, setting.limits, f"default: {setting.default}"]
    names = ", ".join(setting.flag.elsewhere)
    called = f"\nIn other programs: {names}.\n" if names else ""
    return (
        f"### `{setting.name}`\n\n`{setting.flag_name}` ({'; '.join(filter(None, notes))})\n\n"
        f"{setting.description}\n{called}"
    )


def _as_json(setting: Setting) -> dict[str, object]:
    return {
        "name": setting.name,
        "flag": setting.flag_name,
        "type": setting.type_name,
        "range": setting.limits,
        "default": setting.default,
        "description": setting.description,
    }


def _print_table() -> None:
    from rich.table import Table

    table = Table(title="Settings of a run", title_justify="left")
    table.add_column("setting and flag", no_wrap=True)
    for column in ("values and default", "meaning"):
        table.add_column(column, overflow="fold")
    for setting in all_settings().values():
        values = ", ".join(filter(None, (setting.type_name, setting.limits)))
        names = f"{setting.name}\n  {setting.flag_name}"
        cells = (names, f"{values}\ndefault: {setting.default}", setting.summary)
        table.add_row(*(terminal_text(cell, several_lines=True) for cell in cells))
    make_console().print(table)

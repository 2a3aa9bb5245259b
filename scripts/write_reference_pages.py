"""Write the reference pages that follow from the code: the command line and the run record.

python scripts/write_reference_pages.py        # after every change of a flag or of a record's field

``tests/test_documentation.py`` fails where a page is not what this writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from epi_bench.cli.app import app
from epi_bench.files import write_atomically
from epi_bench.results.record.record_file import record_schema

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"
NOTE = "<!-- Written by scripts/write_reference_pages.py: change the code, not this page. -->"

TYPES = {"str": "TEXT", "path": "PATH", "int": "INTEGER", "int range": "INTEGER", "float": "NUMBER"}
"""Typer's name of a type -> the word on the page."""

SETTINGS = {
    "RunSpec",
    "ModelSpec",
    "StrategySpec",
    "AdapterSpec",
    "StreamSpec",
    "DataSpec",
    "TrainingSpec",
    "EvaluationSpec",
}
"""Parts of the schema that the page on settings describes."""


def pages() -> dict[str, str]:
    """File name -> text of each page."""
    return {"command_line.md": command_line_page(), "record.md": record_page(record_schema())}


# The command line


def command_line_page() -> str:
    """Every command with its arguments and flags, as ``--help`` tells them."""
    root = typer.main.get_command(app)
    parts = [
        NOTE,
        "# Command line",
        _plain(root.help),
        "The same texts are shown by `--help` after any command. Every flag that sets something "
        "about a run is also a [setting](settings.md) of `run.toml`.",
    ]
    for words, command in _commands(root, ("epi-bench",)):
        parts.extend(_command_section(words, command))
    return "\n\n".join(parts) + "\n"


def _commands(group: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, (*words, name))
        else:
            yield (*words, name), command


def _command_section(words: tuple[str, ...], command: Any) -> Iterator[str]:
    context = command.make_context(" ".join(words), [], resilient_parsing=True)
    usage = " ".join([*words, *command.collect_usage_pieces(context)])
    yield f"## `{' '.join(words[1:])}`"
    yield _plain(command.help)
    yield f"```\n{usage}\n```"
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or "--help" in parameter.opts:
            continue
        kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
        panel = getattr(parameter, "rich_help_panel", None) or kind
        panels.setdefault(str(panel), []).append(_parameter_row(parameter, context))
    for panel, rows in panels.items():
        titled = len(panels) > 1 or panel == "Arguments"
        head = f"**{panel}**\n\n" if titled else ""
        yield f"{head}| name | value | what it does | default |\n| --- | --- | --- | --- |\n" + (
            "\n".join(rows)
        )


def _parameter_row(parameter: Any, context: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    kind = parameter.display_type(context).strip("<>")
    value = parameter.metavar or TYPES.get(kind, kind)
    if is_argument:
        name = f"`{(parameter.metavar or parameter.name).strip('{}')}`"
    else:
        name = ", ".join(f"`{flag}`" for flag in [*parameter.opts, *parameter.secondary_opts])
    is_switch = getattr(parameter, "is_flag", False)
    shown = "" if is_switch or is_argument else f"`{_cell(value)}`"
    note = re.sub(r"\s*\[default: .*?\]", "", _plain(getattr(parameter, "help", None)))
    if parameter.envvar:
        note += f" Environment variable: `{parameter.envvar}`."
    return f"| {name} | {shown} | {_cell(note, escape=True)} | {_default(parameter, context)} |"


def _default(parameter: Any, context: Any) -> str:
    if parameter.required:
        return "required"
    written = re.search(r"\[default: (.*?)\]", _plain(getattr(parameter, "help", None)))
    if written:
        return _cell(written.group(1), escape=True)
    if isinstance(parameter.show_default, str):
        return _cell(parameter.show_default, escape=True)
    value = parameter.get_default(context, call=False)
    if value is None or callable(value) or value in ((), [], ""):
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{_cell(str(getattr(value, 'value', value)))}`"


# The run record


def record_page(schema: Mapping[str, Any]) -> str:
    """Every field of the run record, from its JSON schema."""
    parts = [
        NOTE,
        "# Run record",
        "`runs/<run_id>/record.json` holds everything that a run measured, with what it was made "
        "from; the copies in `results/` and `leaderboards/` are the same files. The JSON schema is "
        "`epi_bench/data/schema/run_record.schema.json`. From Python: "
        "[`epi_bench.load_record`](python.md).",
        "A field without a default is always there. What was not measured is `null`, never 0. How "
        "the format may change: [What may change](../stability.md#results-keep-their-meaning).",
        "## The record",
        _fields_table(schema, schema["$defs"]),
    ]
    for name, part in schema["$defs"].items():
        if name in SETTINGS or "properties" not in part:
            continue
        parts += [f"## {name}", _summary(part), _fields_table(part, schema["$defs"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _fields_table(part: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    described = _attributes(part.get("description", ""))
    required = part.get("required", ())
    rows = []
    for name, field in part["properties"].items():
        text = field.get("description") or described.get(name) or _summary_of_type(field, parts)
        cells = [f"`{name}`", _type(field), _cell(_json_words(text), escape=True)]
        rows.append(f"| {' | '.join([*cells, _json_default(field, name in required)])} |")
    head = "| field | type | what it is | default |\n| --- | --- | --- | --- |\n"
    return head + "\n".join(rows)


def _summary_of_type(field: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """What the field's type says about itself, where the field says nothing."""
    named = re.search(r"#/\$defs/(\w+)", str(field))
    return _summary(parts[named.group(1)]) if named and named.group(1) not in SETTINGS else ""


def _json_words(text: str) -> str:
    return text.replace("`None`", "`null`").replace("``None``", "`null`")


def _summary(part: Mapping[str, Any]) -> str:
    text = part.get("description", "").split("\n\nAttributes:")[0]
    return _plain(text)


def _attributes(docstring: str) -> dict[str, str]:
    """The texts under ``Attributes:`` of a docstring, by name."""
    _, _, listed = docstring.partition("Attributes:\n")
    listed = listed.split("\n\n")[0]
    found: dict[str, str] = {}
    name = ""
    for line in listed.split("\n"):
        begun = re.match(r" {4}(\w+)(?:: (.*)|,.*)$", line)
        if begun:
            name = begun.group(1)
            found[name] = begun.group(2) or ""
        elif name:
            found[name] += " " + line.strip()
    return {name: _plain(text) for name, text in found.items()}


def _type(field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[-1]
        if name == "RunSpec":
            return "[settings](settings.md)"
        return "JSON" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        kinds = [_type(kind) for kind in field["anyOf"]]
        if any(" or " in kind for kind in kinds):
            return ", or ".join(kinds)
        return " or ".join(
            dict.fromkeys("number" if k == "integer" and "number" in kinds else k for k in kinds)
        )
    if "enum" in field or "const" in field:
        values = field.get("enum", [field.get("const")])
        return ", ".join(f"`{value}`" for value in values)
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}" if field.get("items") else "list"
    if field.get("type") == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"mapping to {_type(field['additionalProperties'])}"
    return str(field.get("type", "JSON"))


def _json_default(field: Mapping[str, Any], required: bool) -> str:
    if required or "default" not in field:
        return "" if required else "empty"
    value = field["default"]
    if value in ([], {}):
        return "empty"
    return (
        "`null`"
        if value is None
        else f"`{str(value).lower() if isinstance(value, bool) else value}`"
    )


# Text


def _plain(text: str | None) -> str:
    """A docstring or help text as Markdown: one line a paragraph, code marked once."""
    if not text:
        return ""
    paragraphs = re.split(r"\n\s*\n", text.replace("\b", "").strip())
    lines = [" ".join(paragraph.split()) for paragraph in paragraphs]
    joined = "\n\n".join(lines)
    joined = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", joined).replace("``", "`").replace("\\[", "[")
    return _escaped(joined)


def _escaped(text: str) -> str:
    """Angle brackets outside of code are text, not HTML."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else p.replace("<", "&lt;") for p in parts)


def _cell(text: str, escape: bool = False) -> str:
    """Text that stays inside one cell of a table."""
    text = " ".join(text.split()).replace("|", "\\|")
    return _escaped(text) if escape else text


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        write_atomically(FOLDER / name, text)
        print(f"wrote {FOLDER / name}")

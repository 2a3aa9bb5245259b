"""Flags made from the fields of the specification.

A command that takes settings lists only what is not a setting::

    @takes_settings()
    def run(*, settings: SettingFlags, jobs: Annotated[int, typer.Option()] = 1) -> None: ...

Where the parameter ``settings`` stands, Typer sees a flag for each field; the command receives
what was given, nested as in ``run.toml``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.markup import escape

from epi_bench.cli.completion import name_completer
from epi_bench.spec.settings import Setting, all_settings

SettingFlags = dict[str, Any]
"""Type of the parameter that receives the given settings, such as ``{"data": {"max_length": 64}}``;
what was not given is missing."""

_PARAMETER = "settings"


def takes_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator that gives a command a flag for each setting.

    Args:
        names: Dotted names of the settings it takes; without any, all whose flag is made from
            the field.
    """
    chosen = [
        setting
        for name, setting in all_settings().items()
        if setting.flag.made_from_field and (not names or name in names)
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            made = [_parameter(s) for s in chosen] if parameter.name == _PARAMETER else [parameter]
            parameters += [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in made]

        @functools.wraps(command)
        def call(**values: Any) -> None:
            given = {setting.name: values.pop(_identifier(setting)) for setting in chosen}
            command(**{_PARAMETER: _nested(given)}, **values)

        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        return call

    return decorate


def help_text(name: str, text: str = "") -> str:
    """The help of a setting's flag, with its range and default.

    Args:
        name: Dotted name of the setting.
        text: What to say in place of the first sentence of the field's description.
    """
    setting = all_settings()[name]
    default = setting.default
    if setting.annotation is bool:
        default = "on" if setting.field.default else "off"
    notes = "; ".join(filter(None, (setting.limits, f"default: {default}")))
    return escape(f"{text or setting.summary} [{notes}]")  # rich would take [default: x] for a tag


def _parameter(setting: Setting) -> inspect.Parameter:
    declaration = setting.flag_name
    if setting.annotation is bool:
        declaration += f"/--no-{setting.flag_name.lstrip('-')}"
    option = typer.Option(
        declaration,
        help=help_text(setting.name),
        metavar=f"<{'|'.join(setting.choices)}>" if setting.choices else None,
        rich_help_panel=setting.flag.panel,
        autocompletion=name_completer(setting),
    )
    plain = str if setting.choices else setting.annotation
    return inspect.Parameter(
        _identifier(setting),
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[plain | None, option],
    )


def _identifier(setting: Setting) -> str:
    return setting.flag_name.lstrip("-").replace("-", "_")


def _nested(given: dict[str, Any]) -> SettingFlags:
    nested: SettingFlags = {}
    for name, value in given.items():
        section, _, key = name.rpartition(".")
        if value is not None:
            (nested.setdefault(section, {}) if section else nested)[key] = value
    return nested

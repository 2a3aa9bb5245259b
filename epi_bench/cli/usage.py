"""Wrong flags and commands: one line with the closest right one, as for every other user error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from epi_bench.errors import UserError, unknown_name

UsageError: Any = typer.BadParameter.__bases__[0]
"""What Typer raises for a wrong command line; it gives the class no public name."""

ALIASES = {"--output": "--out", "--strategies": "--strategy"}
"""Second names of flags, which work and are not shown."""

ELSEWHERE = {
    "--cluster": "--address",
    "--code": "--allow-code-execution",
    "--n-jobs": "--jobs",
    "--num-cpus": "--cpus-per-run",
    "--num-gpus": "--gpus-per-run",
    "--num-seeds": "--seeds",
    "--num-workers": "--jobs",
    "--output-dir": "--out",
    "--output-path": "--out",
    "--overwrite": "--force",
    "--overwrite-output-dir": "--force",
    "--ray-address": "--address",
    "--results-dir": "--out",
    "--save-dir": "--save-model",
    "--save-path": "--save-model",
    "--silent": "--quiet",
    "--workers": "--jobs",
}
"""Other programs' names of flags that are not settings; those of settings stand at their fields."""

Parsed = TypeVar("Parsed")


class Command(TyperCommand):
    """A command whose wrong flags are user errors."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, or explain the first flag that is wrong."""
        args = _without_aliases(self, args)
        return _explained(self, ctx, args, super().parse_args)


class Group(TyperGroup):
    """The same for a group of commands, and for their names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, or explain the first flag that is wrong."""
        if not args:  # shows the help
            return super().parse_args(ctx, args)
        return _explained(self, ctx, args, super().parse_args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command, or say which one may have been meant."""
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            raise unknown_name("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


def group_with_default(default: str) -> type[Group]:
    """A group that takes what names none of its commands as the arguments of one of them.

    ``epi-bench leaderboard FOLDER`` is ``epi-bench leaderboard show FOLDER``. A folder with the
    name of a command is reached by its path (``./validate``).

    Args:
        default: The command.
    """

    class GroupWithDefault(Group):
        default_command = default

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            """Parse, with the default command put in where none is named."""
            word = args[0] if args else ""
            completing = ctx.resilient_parsing and not args
            if completing or word in (*self.commands, *ctx.help_option_names):
                return super().parse_args(ctx, args)
            close = get_close_matches(word, self.commands, n=1, cutoff=0.75)
            if close and not Path(word).exists():
                raise unknown_name("command or folder", word, self.commands)
            return super().parse_args(ctx, [default, *args])

    return GroupWithDefault


def explain_usage_in_one_line(app: typer.Typer) -> None:
    """Give every command of an application, and of the groups in it, these classes."""
    if not (isinstance(app.info.cls, type) and issubclass(app.info.cls, Group)):
        app.info.cls = Group
    for command in app.registered_commands:
        command.cls = Command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            explain_usage_in_one_line(group.typer_instance)


def _explained(
    command: TyperCommand | TyperGroup,
    context: Any,
    args: list[str],
    parse: Callable[[Any, list[str]], list[str]],
) -> list[str]:
    options = list(args)  # parsing takes them off the list
    try:
        return parse(context, args)
    except UsageError as error:
        if hasattr(error, "possibilities"):  # no such option
            raise _unknown_flag(command, context, error.option_name, options) from None
        raise UserError(_reason(error)) from None


def _unknown_flag(
    command: TyperCommand | TyperGroup, context: Any, flag: str, args: list[str]
) -> UserError:
    """The error for a flag that the command does not have."""
    written = next((arg for arg in args if arg.startswith(flag)), flag).partition("=")[0]
    plain = "--" + written.lstrip("-").replace("_", "-").lower()
    known = _flags(command)
    meant = _other_names().get(plain)
    if plain in known or meant in known:
        close = [plain if plain in known else str(meant)]
    else:
        names = [flag.lstrip("-") for flag in known]
        close = [f"--{match}" for match in get_close_matches(plain.lstrip("-"), names, cutoff=0.6)]
    _, *words = context.command_path.split()
    path = " ".join(["epi-bench", *words])
    remedy = f"did you mean {' or '.join(close)}?" if close else f"see {path} --help"
    return UserError(f"{' '.join(words) or path} has no flag {written}: {remedy}")


def _other_names() -> Mapping[str, str]:
    from epi_bench.spec.settings import all_settings

    of_settings = {
        f"--{word}": setting.flag_name
        for setting in all_settings().values()
        for word in setting.flag.elsewhere
    }
    return {**of_settings, **ELSEWHERE, **ALIASES}


def _flags(command: TyperCommand | TyperGroup) -> list[str]:
    return [
        flag
        for parameter in command.params
        if not getattr(parameter, "hidden", False)
        for flag in (*parameter.opts, *parameter.secondary_opts)
        if flag.startswith("--")
    ]


def _without_aliases(command: TyperCommand, args: list[str]) -> list[str]:
    """The arguments with each second name replaced by the command's own."""
    known = _flags(command)
    replaced = []
    for arg in args:
        flag, equals, value = arg.partition("=")
        other = ALIASES.get(flag)
        own = other if other in known and flag not in known else flag
        replaced.append(f"{own}{equals}{value}")
    return replaced


def _reason(error: Any) -> str:
    """What is wrong with a command line, beginning with the flag."""
    message = str(error.format_message())
    parameter = getattr(error, "param", None)
    flags = sorted(getattr(parameter, "opts", ()), key=len)
    said = str(error.message).removeprefix("Value error, ").rstrip(".")
    if flags and flags[-1].startswith("-") and said:
        return f"{flags[-1]}: {said[0].lower()}{said[1:]}"
    return f"{message[0].lower()}{message[1:]}".rstrip(".")

"""Names that the shell completes after a flag; none of it imports torch or runs a plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from epi_bench.foreign_text import for_terminal
from epi_bench.spec.settings import Setting

Completer = Callable[[str], list[str]]
"""Called with what stands on the command line so far; returns what it may become."""


def strategies(incomplete: str) -> list[str]:
    """Names of strategies and families, with commas between them, and ``all``."""
    from epi_bench.api.strategy_names import ALL
    from epi_bench.strategy.facts import FAMILIES

    return _in_list([*_strategy_names(), *FAMILIES, ALL], incomplete)


def strategy(incomplete: str) -> list[str]:
    """The name of one strategy."""
    return _starting(_strategy_names(), incomplete)


def tasks(incomplete: str) -> list[str]:
    """Names of tasks and suites and paths of .toml files, with commas between them."""
    from epi_bench.task.files.suites import builtin_suites

    last = incomplete.rpartition(",")[2]
    return _in_list([*_task_names(), *builtin_suites(), *_toml_files(last)], incomplete)


def task(incomplete: str) -> list[str]:
    """The name of one task, or the path of a file that describes one."""
    return _starting([*_task_names(), *_toml_files(incomplete)], incomplete)


def streams(incomplete: str) -> list[str]:
    """The name of a stream."""
    from epi_bench.spec.streams import STREAMS

    return _starting(STREAMS.names(), incomplete)


def name_completer(setting: Setting) -> Completer | None:
    """What completes the value of a setting; ``None`` for numbers and free text."""
    if setting.name == "stream.kind":
        return streams
    choices = setting.choices
    return (lambda incomplete: _starting(choices, incomplete)) if choices else None


def _strategy_names() -> list[str]:
    from epi_bench.strategy.strategy import STRATEGIES

    return STRATEGIES.names()


def _task_names() -> list[str]:
    from epi_bench.task.task import TASKS

    return TASKS.names()


def _toml_files(beginning: str) -> list[str]:
    """Files and folders that a path may become."""
    folder, separator, _ = beginning.rpartition("/")
    try:
        found = sorted(Path(folder or separator or ".").iterdir())
    except OSError:
        return []
    files = [path.name for path in found if path.suffix == ".toml"]
    folders = [f"{path.name}/" for path in found if separator and path.is_dir()]
    return [f"{folder}{separator}{name}" for name in (*files, *folders)]


def _in_list(names: Iterable[str], incomplete: str) -> list[str]:
    """Completions of the last name of a list with commas; none is offered twice."""
    head, comma, last = incomplete.rpartition(",")
    left = [name for name in names if name not in head.split(",")]
    return [f"{head}{comma}{name}" for name in _starting(left, last)]


def _starting(names: Iterable[str], beginning: str) -> list[str]:
    """Those that begin so; a shell would print terminal codes in the name of a file as they are."""
    return sorted(
        name for name in names if name.startswith(beginning) and name == for_terminal(name)
    )

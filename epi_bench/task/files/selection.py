"""Names of tasks, suites and files, as users give them, to tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epi_bench.errors import UserError
from epi_bench.spec.toml import is_file_name, read_toml_text
from epi_bench.task.files.suites import Suite, builtin_suites, read_suite


@dataclass
class TaskSelection:
    """Tasks that were asked for.

    Attributes:
        names: In order.
        files: Task name -> its task file, for tasks that are described in one.
        defaults: Settings that go with the suites among them.
    """

    names: list[str] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)


def select_tasks(entries: Sequence[str], folder: Path = Path()) -> TaskSelection:
    """Resolve what a user asks for into task names; task files are read and registered.

    Args:
        entries: Names of tasks and suites, and paths of task and suite files.
        folder: What relative paths are relative to.

    Raises:
        UserError: If a file is missing or wrong, or two suites bring different settings. Whether
            a plain name is known is not checked here.
    """
    selection = TaskSelection()
    suites: list[Suite] = []
    for entry in entries:
        suite = _suite_of(entry, folder)
        if suite is None:
            _add_task(selection, entry, folder)
            continue
        suites.append(suite)
        for task in suite.tasks:
            if _suite_of(task, suite.path.parent) is not None:
                raise UserError(f"{suite.path}: {task!r} is a suite: name its tasks instead")
            _add_task(selection, task, suite.path.parent)
    for suite in suites:
        if suite.defaults and selection.defaults not in ({}, suite.defaults):
            raise UserError(
                f"suites {' and '.join(s.name for s in suites)} bring different settings: "
                "run them one after the other, or name their tasks"
            )
        selection.defaults = selection.defaults or suite.defaults
    return selection


def file_kind(path: Path) -> str:
    """``task`` or ``suite``, as the file's keys say.

    Raises:
        UserError: If it is missing, no TOML, or neither.
    """
    _, content = read_toml_text(path)
    if "tasks" in content:
        return "suite"
    if content.keys() & {"source", "example", "scoring", "name"}:
        return "task"
    raise UserError(
        f"{path} describes neither a task (name, [source], [example], [scoring]) nor a suite "
        "(tasks)"
    )


def _suite_of(entry: str, folder: Path) -> Suite | None:
    if not is_file_name(entry):
        return builtin_suites().get(entry)
    path = folder / Path(entry).expanduser()
    return read_suite(path) if file_kind(path) == "suite" else None


def _add_task(selection: TaskSelection, entry: str, folder: Path) -> None:
    from epi_bench.task.files.file_task import register_task_file

    if is_file_name(entry):
        path = folder / Path(entry).expanduser()
        entry = register_task_file(path)
        selection.files[entry] = path
    elif "/" in entry or "\\" in entry:
        raise UserError(f"{entry!r} is no name of a task; the path of a task file ends in .toml")
    selection.names.append(entry)

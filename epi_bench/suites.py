"""Suites: lists of tasks with the settings that go with them, as TOML files.

A suite's name is that of its file. Built-in suites lie in ``epi_bench/data/suites``; a user's own
are given by their path, and may name task files beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, ValidationError

from epi_bench.config import Section, complete_spec
from epi_bench.errors import UserError, unknown_name
from epi_bench.task_definition import explain_in_file
from epi_bench.toml_files import read_toml_text
from epi_bench.toml_lines import TomlLines

BUILTIN_FOLDER = Path(__file__).parent / "data" / "suites"


class SuiteDefaults(Section):
    """Settings that go with a suite, named as in the configuration of a run.

    They come before the model's defaults; flags and a configuration file come before them.
    """

    data: dict[str, JsonValue] = Field(default_factory=dict)
    training: dict[str, JsonValue] = Field(default_factory=dict)
    evaluation: dict[str, JsonValue] = Field(default_factory=dict)


class SuiteDefinition(Section):
    """A suite file.

    Attributes:
        summary: One line.
        tasks: Names of tasks, or paths of task files relative to the suite file; in order.
        defaults: Settings that go with them.
    """

    summary: str = ""
    tasks: tuple[str, ...] = Field(min_length=1)
    defaults: SuiteDefaults = SuiteDefaults()


@dataclass(frozen=True)
class Suite:
    """A suite and the file it was read from."""

    path: Path
    definition: SuiteDefinition

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names and paths as the file has them."""
        return self.definition.tasks

    @property
    def defaults(self) -> dict[str, Any]:
        """Sections that set something."""
        sections = self.definition.defaults.model_dump()
        return {name: values for name, values in sections.items() if values}


def read_suite(path: Path) -> Suite:
    """Read and check a suite file; its tasks are not looked up.

    Raises:
        UserError: If it is missing, no TOML, or says something that cannot be; the line is named.
    """
    text, content = read_toml_text(path)
    lines = TomlLines(text)
    try:
        suite = Suite(path, SuiteDefinition.model_validate(content))
    except ValidationError as error:
        raise explain_in_file(error, SuiteDefinition, path, lines) from error
    if "tasks" in suite.defaults.get("data", {}):
        raise UserError(f"{path}: tasks belong at the top of the file, not into [defaults.data]")
    if suite.defaults:
        try:
            complete_spec(suite.defaults)
        except UserError as error:
            line = lines.line(["defaults"]) or lines.line(["defaults", next(iter(suite.defaults))])
            raise UserError(f"{path} line {line}: [defaults]: {error}") from error
    return suite


@lru_cache(maxsize=1)
def builtin_suites() -> Mapping[str, Suite]:
    """The suites that the package brings along, by name."""
    suites = [read_suite(path) for path in sorted(BUILTIN_FOLDER.glob("*.toml"))]
    return {suite.name: suite for suite in suites}


def suite_tasks(name: str) -> tuple[str, ...]:
    """The tasks of a built-in suite.

    Raises:
        UserError: If there is no such suite.
    """
    if name not in builtin_suites():
        raise unknown_name("suite", name, builtin_suites())
    return builtin_suites()[name].tasks


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


def is_file_name(name: str) -> bool:
    """Whether what a user wrote in place of a name is the path of a TOML file."""
    return name.lower().endswith(".toml")


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
    from epi_bench.task_file import register_task_file

    if is_file_name(entry):
        path = folder / Path(entry).expanduser()
        entry = register_task_file(path)
        selection.files[entry] = path
    elif "/" in entry or "\\" in entry:
        raise UserError(f"{entry!r} is no name of a task; the path of a task file ends in .toml")
    selection.names.append(entry)

"""Suites: lists of tasks with the settings that go with them, as TOML files.

A suite's name is that of its file. Built-in suites lie in ``epi_bench/data/suites``; a user's own
are given by their path, and may name task files beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, ValidationError

from epi_bench.errors import UserError, unknown_name
from epi_bench.files import shipped_file
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.explain import explain_in_file
from epi_bench.spec.run_spec import Section
from epi_bench.spec.toml import read_toml_text
from epi_bench.spec.toml_lines import TomlLines

BUILTIN_FOLDER = shipped_file("suites")


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

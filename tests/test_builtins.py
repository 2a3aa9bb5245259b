"""Built-in strategies and tasks use the public interface alone, as a plugin would."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

import epi_bench

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for folder in ("strategies", "tasks")
    for path in (ROOT / folder).glob("*.py")
    if path.name != "__init__.py"
)


def imported_from_the_package(source):
    """Every name that a source takes from epi_bench, as ``module.name``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def foreign(source):
    """Imports that are neither public names nor of other packages."""
    names = [f"epi_bench.{name}" for name in dir(epi_bench)]
    public = {name for name in names if find_spec(name) is None}  # no modules
    found = imported_from_the_package(source)
    return [name for name in found if name.startswith((".", "epi_bench")) and name not in public]


def test_there_are_files_to_look_at():
    assert len(FILES) > 25


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_builtin_imports_public_names_alone(path):
    assert foreign(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "from epi_bench.task.task import Task",
        "from epi_bench.tasks._generated import THINGS",
        "from epi_bench import errors",
        "from . import gsm8k",
        "import epi_bench.strategy.strategy",
        "def f():\n    from epi_bench import not_public",
    ],
)
def test_other_imports_are_found(line):
    assert len(foreign(line)) == 1

"""No module prints around the functions that show foreign text, nor builds markup by itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

SHOWN_BY = {
    "print": "epi_bench/cli/printing.py",
    "typer.echo": "epi_bench/cli/printing.py",
    "typer.secho": "epi_bench/cli/printing.py",
    "typer.style": "epi_bench/cli/printing.py",
    "rich.print": "epi_bench/tables/console.py",
    "rich.console.Console": "epi_bench/tables/console.py",
    "rich.text.Text.from_markup": "epi_bench/tables/console.py",
    "rich.markup.render": "epi_bench/tables/console.py",
    "html.escape": "epi_bench/foreign_text/markup.py",
}
"""What shows text, and the only module that may call it.

``say``, ``complain`` and ``put`` of ``epi_bench.cli.printing`` print lines; ``make_console`` of
``epi_bench.tables`` makes consoles; ``for_html`` and its neighbours stand in
``epi_bench.foreign_text``.
"""


def _imported_names(tree: ast.AST) -> dict[str, str]:
    """Name in a module -> dotted name of what it stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({a.asname: a.name for a in node.names if a.asname})
        elif isinstance(node, ast.ImportFrom):
            names.update({a.asname or a.name: f"{node.module}.{a.name}" for a in node.names})
    return names


def _dotted(node: ast.expr, names: Mapping[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, names)}.{node.attr}"
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def calls_around(source: str, path: str) -> Iterator[str]:
    """Places in a file that call what another module is there for."""
    tree = ast.parse(source)
    names = _imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = _dotted(node.func, names)
            if SHOWN_BY.get(called, path) != path:
                yield f"{path}:{node.lineno} calls {called}: see {SHOWN_BY[called]}"
            for keyword in node.keywords:
                on = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
                if keyword.arg in ("markup", "emoji") and on:
                    yield f"{path}:{node.lineno} has rich read {keyword.arg} in text"
        elif isinstance(node, ast.ClassDef):
            for base in node.bases:
                if _dotted(base, names) == "rich.console.Console" and (
                    path != SHOWN_BY["rich.console.Console"]
                ):
                    yield f"{path}:{node.lineno} makes a console of its own"


@pytest.mark.parametrize(
    "source",
    [
        "print('x')",
        "import typer\ntyper.echo('x')",
        "from typer import echo as say\nsay('x')",
        "def f():\n    from rich.console import Console\n    return Console(stderr=True)",
        "import rich.console as r\nr.Console()",
        "from html import escape\nescape('x')",
        "console.print('x', markup=True)",
        "from rich.text import Text\nText.from_markup('x')",
        "from rich.console import Console\nclass Mine(Console): ...",
    ],
)
def test_a_place_would_be_found(source):
    assert len(list(calls_around(source, "epi_bench/cli/other.py"))) == 1


def test_nothing_is_shown_around_the_functions_for_it():
    files = [
        path
        for folder in ("epi_bench", "strategies", "tasks")
        for path in sorted((REPOSITORY / folder).rglob("*.py"))
    ]
    assert len(files) > 200
    found = [
        place
        for path in files
        for place in calls_around(
            path.read_text(encoding="utf-8"), path.relative_to(REPOSITORY).as_posix()
        )
    ]
    assert found == []

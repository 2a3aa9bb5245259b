"""The architecture, computed from the source: which package may import which.

Every import counts: at the top of a file, inside functions and under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]

ORDER = (
    "foreign_text",
    "errors",
    "files",
    "tables",
    "plugins",
    "spec",
    "results.metrics",
    "sandbox",
    "task.rows",
    "task",
    "task.files",
    "results.record",
    "results.leaderboard",
    "results.masks",
    "model.chat",
    "model",
    "isolation",
    "strategy",
    "bridges",
    "training",
    "evaluation.judge",
    "evaluation",
    "runs",
    "api",
    "cli",
)
"""Packages of the core, and the two modules beside them; each may import those before it."""

WITHOUT_TORCH = ORDER[: ORDER.index("model.chat")]
"""Importable without torch, transformers or datasets."""

FACES = ("__init__", "__main__", "plugin", "testing")
"""Modules of ``epi_bench`` itself that stand above all packages."""


def _modules() -> dict[str, Path]:
    """Dotted name below ``epi_bench`` -> file; a package has the name of its folder."""
    found = {}
    for path in sorted((REPOSITORY / "epi_bench").rglob("*.py")):
        parts = path.relative_to(REPOSITORY / "epi_bench").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


MODULES = _modules()


def _imported(path: Path) -> set[str]:
    """Absolute names that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively: the graph cannot be read off it"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _module_of(name: str) -> str | None:
    """The module of the core that an absolute name lies in."""
    parts = name.split(".")
    if parts[0] != "epi_bench":
        return None
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[1 : 1 + length])
        if module in MODULES:
            return module
    return "__init__"


def _arrows() -> dict[str, set[str]]:
    """Module -> modules of the core that it imports."""
    arrows = {}
    for module, path in MODULES.items():
        found = {_module_of(name) for name in _imported(path)}
        arrows[module] = {other for other in found if other not in (None, module)}
    return arrows


def _is_face(module: str) -> bool:
    return module.partition(".")[0] in FACES


def _package(module: str) -> str:
    if MODULES[module].name == "__init__.py" or "." not in module:
        return module
    return module.rpartition(".")[0]


def _circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_a_circle_would_be_found():
    assert _circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


def test_there_is_no_circle_between_modules():
    arrows = {m: others for m, others in _arrows().items() if not _is_face(m)}
    assert sum(map(len, arrows.values())) > 300
    assert _circle(arrows) == []


def test_every_module_stands_in_a_package_of_the_order():
    packages = {_package(module) for module in MODULES if not _is_face(module)}
    parents = {"results"}  # holds packages only
    assert packages - parents == set(ORDER)


def test_packages_import_only_what_stands_before_them():
    rank = {package: index for index, package in enumerate(ORDER)}
    wrong = [
        f"{module} imports {other}"
        for module, others in _arrows().items()
        if not _is_face(module)
        for other in others
        if (_is_face(other) and _package(module) != "cli")
        or (not _is_face(other) and rank[_package(other)] > rank[_package(module)])
    ]
    assert wrong == []


def test_epi_bench_itself_holds_few_files():
    beside = {m for m in MODULES if "." not in m and MODULES[m].name != "__init__.py"}
    assert len(beside - {"__main__"}) <= 4, sorted(beside)


def test_no_module_hides_a_name_of_its_package():
    """Importing a submodule sets the package's attribute of that name."""
    import epi_bench
    import epi_bench.bridges

    for package in (epi_bench, epi_bench.bridges):
        below = package.__name__.partition(".")[2]
        modules = {
            module.removeprefix(f"{below}.").partition(".")[0]
            for module in MODULES
            if not below or module.startswith(f"{below}.")
        }
        assert modules.isdisjoint(package.__all__)


def test_what_stands_before_the_model_needs_no_torch():
    modules = [m for m in MODULES if not _is_face(m) and _package(m) in WITHOUT_TORCH]
    modules += ["strategy.hooks", "strategy.strategy"]
    assert len(modules) > 50
    program = f"""
import importlib, sys
for module in {sorted(modules)}:
    if not module.startswith("sandbox."):  # those start processes of their own
        importlib.import_module("epi_bench." + module)
heavy = ("torch", "transformers", "datasets", "avalanche", "accelerate", "ray", "pandas")
print(sorted(name for name in heavy if name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr

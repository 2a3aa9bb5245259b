"""Names that a face hands out when they are first used, listed once in its stub file.

lazy_loader does the same for stubs that import relatively and list every name themselves; here one
stub takes in another (``from epi_bench.plugin import *``), so that no name stands twice.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def names_in_stub(stub: Path) -> dict[str, str]:
    """The names that a stub imports, each with its module; ``import *`` is left out."""
    return {
        alias.name: node.module
        for node in ast.parse(stub.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if alias.name != "*"
    }


def attach_stubs(module: str, *stubs: Path) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a face that hands out the names of its stubs.

    Args:
        module: The face's own name.
        stubs: Its stub files.
    """
    homes = {name: home for stub in stubs for name, home in names_in_stub(stub).items()}

    def import_name(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[module], name, value)  # asked for once
        return value

    def list_names() -> list[str]:
        own = vars(sys.modules[module]).items()
        shown = (name for name, value in own if name[:2] == "__" or isinstance(value, ModuleType))
        return sorted({*homes, *shown})

    return import_name, list_names

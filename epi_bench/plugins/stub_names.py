"""Names that a face hands out when they are first used, listed once in its stub file.

lazy_loader does the same for stubs that import relatively and list every name themselves; here one
stub takes in another (``from epi_bench.plugin import *``), so that no name stands twice.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
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


def load_name(module: str, name: str, homes: dict[str, str]) -> Any:
    """A name of a face, imported from its home.

    Args:
        module: The face's own name, for the message.
        name: What is asked of it.
        homes: What :func:`names_in_stub` returned.

    Raises:
        AttributeError: If it has no such name.
    """
    if name not in homes:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    return getattr(importlib.import_module(homes[name]), name)

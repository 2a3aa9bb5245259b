"""What authors of strategies, tasks and streams need; all of it is importable from ``epi_bench``.

The names stand in ``plugin.pyi`` under three headings: strategies, tasks and streams. Each is
imported when it is first used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from epi_bench.plugins.stub_names import load_name, names_in_stub

_HOMES = names_in_stub(Path(__file__).with_suffix(".pyi"))

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    value = load_name(__name__, name, _HOMES)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

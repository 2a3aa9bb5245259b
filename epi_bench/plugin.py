"""What authors of strategies, tasks and streams need; all of it is importable from ``epi_bench``.

The names stand in ``plugin.pyi`` under three headings: strategies, tasks and streams. Each is
imported when it is first used.
"""

from __future__ import annotations

from pathlib import Path

from epi_bench.plugins.stub_names import attach_stubs, names_in_stub

_STUB = Path(__file__).with_suffix(".pyi")

__all__ = sorted(names_in_stub(_STUB))
__getattr__, __dir__ = attach_stubs(__name__, _STUB)

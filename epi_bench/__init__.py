"""epi-bench: which fine-tuning strategy keeps old abilities while it learns new ones?

For users::

    import epi_bench

    results = epi_bench.compare(["full_sft", "epi"], seeds=3)
    record = epi_bench.run("epi", options={"ratio": 0.3})
    board = epi_bench.load_results("leaderboards")
    scores = epi_bench.evaluate("tiny", ["mini_math"])

For authors of strategies, tasks and streams: the names of :mod:`epi_bench.plugin` are importable
from here too, and :mod:`epi_bench.testing` checks what they write.

Every name stands once, in ``__init__.pyi`` or ``plugin.pyi``. It is imported when it is first
used, so that ``import epi_bench`` stays free of torch and pandas.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from epi_bench.plugins.stub_names import load_name, names_in_stub

_FOLDER = Path(__file__).parent
_FOR_USERS = names_in_stub(_FOLDER / "__init__.pyi")
_HOMES = {**_FOR_USERS, **names_in_stub(_FOLDER / "plugin.pyi")}

__all__ = sorted(_FOR_USERS)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    value = load_name(__name__, name, _HOMES)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(
        {*globals(), *_HOMES} - {"annotations", "Any", "Path", "load_name", "names_in_stub"}
    )

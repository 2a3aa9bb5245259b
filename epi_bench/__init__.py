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

from epi_bench.plugins.stub_names import attach_stubs, names_in_stub

_FOR_USERS = Path(__file__).parent / "__init__.pyi"

__all__ = sorted(names_in_stub(_FOR_USERS))
__version__ = "0.1.0"
__getattr__, __dir__ = attach_stubs(__name__, _FOR_USERS, _FOR_USERS.with_name("plugin.pyi"))

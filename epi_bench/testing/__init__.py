"""A kit for authors of strategies: a tiny model, two toy tasks, and the checks of our own tests.

    from epi_bench.testing import check_strategy

    check_strategy("half_step")
    check_strategy("half_step", share=0.1, holds=lambda before, after: ...)

Everything runs on the CPU in seconds and writes nothing.
"""

from __future__ import annotations

from epi_bench.testing.checks import StrategyCheckError, check_strategy
from epi_bench.testing.toys import toy_loop, toy_model, toy_tasks, train_toy
from epi_bench.testing.witness import Witness

__all__ = [
    "StrategyCheckError",
    "Witness",
    "check_strategy",
    "toy_loop",
    "toy_model",
    "toy_tasks",
    "train_toy",
]

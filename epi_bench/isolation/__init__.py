"""Parameter isolation: measure importance, choose what to protect, hold it bit-identical.

Data flows ``importance -> normalisation -> selection -> protected weights``; :class:`Isolation`
ties the four together. :class:`epi_bench.IsolationStrategy` gives it the hooks of a strategy.
"""

from epi_bench.isolation.engine import Isolation

__all__ = ["Isolation"]

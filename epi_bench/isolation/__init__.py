"""Parameter isolation: measure importance, choose what to protect, hold it bit-identical.

Data flows ``importance -> normalisation -> selection -> protection``; :class:`Isolation` ties the
four together, and :class:`IsolationStrategy` gives them the hooks of a strategy.
"""

from epi_bench.isolation.combination import normalise, reassign, unit_mean
from epi_bench.isolation.elastic import ElasticAnchor
from epi_bench.isolation.engine import Isolation
from epi_bench.isolation.strategy import IsolationStrategy

__all__ = ["ElasticAnchor", "Isolation", "IsolationStrategy", "normalise", "reassign", "unit_mean"]

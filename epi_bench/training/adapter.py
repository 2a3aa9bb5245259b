"""The adapter that a run puts on its model, as its specification says."""

from __future__ import annotations

from epi_bench.spec.run_spec import AdapterSpec
from epi_bench.strategy.low_rank_adapter import LowRankAdapter


def make_adapter(spec: AdapterSpec) -> LowRankAdapter | None:
    """What wraps the model before the strategy prepares it; ``None`` without an adapter.

    Args:
        spec: Kind, size and place.

    Raises:
        UserError: If no layer is named.

    Example:
        >>> make_adapter(AdapterSpec()) is None
        True
        >>> make_adapter(AdapterSpec(kind="lora", rank=4)).rank
        4
    """
    if spec.kind == "none":
        return None
    return LowRankAdapter(
        "adapter",
        spec.rank,
        spec.alpha,
        0.0,
        spec.target_modules,
        setting="adapter.target_modules",
    )

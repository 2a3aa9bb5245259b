"""Importance of parameters: a moving average of squared gradients, kept in four ways.

All estimate ``I <- beta I + (1 - beta) g^2`` (EPI, arXiv 2604.14010). The average starts at zero
and is not corrected for it: a common factor does not change which weights are the most important.
The ways differ in what they keep, and so in bytes a parameter:

============== ==================================================== =====================
``ema``        the average in single precision                      4
``ema_bf16``   the average in bfloat16, rounded stochastically      2
``factored``   means of rows and columns (Adafactor)                4 (1/rows + 1/columns)
``optimizer``  nothing: Adam's own second moment is read            0
============== ==================================================== =====================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from torch import nn

from epi_bench.errors import UserError
from epi_bench.isolation.averages import (
    FactoredSquaredGradientAverage,
    RoundedSquaredGradientAverage,
    SquaredGradientAverage,
)
from epi_bench.isolation.importance import Importance
from epi_bench.isolation.optimizer_moment import OptimizerMoment

ImportanceMode = Literal["ema", "ema_bf16", "factored", "optimizer"]
"""How importance is kept."""


def create_importance(
    mode: ImportanceMode,
    parameters: Mapping[str, nn.Parameter],
    beta: float,
    offload: bool = False,
    seed: int = 0,
) -> Importance:
    """The importance of that mode.

    Args:
        mode: How it is kept; see the module.
        parameters: By name; each is measured.
        beta: Decay, in [0, 1).
        offload: Keep it in the memory of the CPU.
        seed: Of the rounding of ``ema_bf16``.

    Raises:
        UserError: If a value is out of range.
    """
    if mode == "ema":
        return SquaredGradientAverage(parameters, beta, offload)
    if mode == "ema_bf16":
        return RoundedSquaredGradientAverage(parameters, beta, offload, seed)
    if mode == "factored":
        return FactoredSquaredGradientAverage(parameters, beta, offload)
    if mode == "optimizer":
        if offload:
            raise UserError("importance='optimizer' keeps nothing, so offload=True has no effect")
        return OptimizerMoment(parameters, beta)
    raise UserError(f"importance={mode!r}: choose {', '.join(get_args(ImportanceMode))}")

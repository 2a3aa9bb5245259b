"""Task arithmetic: the sum of what each experience changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from epi_bench import TaskVectors, TradeOff, TrainingSpec, register_strategy


@register_strategy("task_arithmetic")
class TaskArithmetic(TaskVectors):
    """The base model plus a multiple of the sum of what each experience changed.

    ``theta = theta_0 + scale sum_k tau_k``, ``tau_k = theta_k - theta_0`` (Ilharco et al. 2023,
    arXiv 2212.04089). Experiences that were trained apart do not overwrite each other, and the sum
    may be too much of what they have in common: the scale is below 1. Costs no training.

    With a low-rank adapter on the model each experience has its own, and the products ``B A`` are
    summed.

    Args:
        scale: At least 0; 0 is the base model. The authors search 0.1 to 1 on validation data.
        from_base: Whether each experience is trained from the base model, as in the paper;
            otherwise from where the experience before ended, with ``tau_k`` what it added. Then
            a scale of 1 is full fine-tuning.
    """

    trade_off = TradeOff("scale", (1.0, 0.7, 0.5, 0.4, 0.3, 0.1))
    evidence = "Its authors report that models of unlike tasks add up with scales of 0.3 to 0.5."

    def __init__(self, scale: float = 0.5, from_base: bool = True) -> None:
        super().__init__(scale, from_base)

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """Settings with which nothing is left of it."""
        if self.scale == 1 and not self.from_base:
            return ["task_arithmetic with scale=1 and from_base=false trains as full_sft does"]
        return ()

    def merged(self, vectors: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """The sum."""
        return {name: torch.stack([v[name] for v in vectors]).sum(0) for name in vectors[0]}

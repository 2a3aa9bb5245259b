"""How many steps an experience has, and the learning rate of each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from epi_bench.model.batching import steps_a_pass
from epi_bench.spec.run_spec import TrainingSpec

if TYPE_CHECKING:
    import torch


def steps_of(examples: int, budget: float, spec: TrainingSpec, processes: int = 1) -> int:
    """Optimizer steps of an experience.

    One epoch is one pass: every example once, the last step smaller where the sizes ask for it.

    Args:
        examples: Its number of training examples.
        budget: Its share of the training budget, in units of one task's.
        spec: ``steps`` for each unit, or ``epochs`` over the examples.
        processes: Processes that train together.
    """
    if spec.steps is not None:
        return max(round(spec.steps * budget), 1)
    if spec.epochs is None:
        raise ValueError("a training specification has steps or epochs")
    a_pass = steps_a_pass(examples, spec.examples_a_step(processes))
    return math.ceil(round(spec.epochs * a_pass, 6))  # 0.1 * 30 is 3.0000000000000004


def learning_rate_share(step: int, steps: int, spec: TrainingSpec) -> float:
    """Share of the peak learning rate at a step of an experience, in (0, 1].

    Linear warm-up over ``warmup_share`` of the steps, then the decay towards zero, which would be
    reached one step after the last. After the warm-up it is the schedule of transformers'
    ``get_scheduler``; in the warm-up it is one step ahead, because that one begins with a step at
    a learning rate of 0, which trains nothing, and experiences here are short.

    Args:
        step: From 1.
        steps: Steps of the experience.
        spec: Warm-up and decay.

    Example:
        >>> spec = TrainingSpec(steps=6, warmup_share=1 / 3, decay="linear")
        >>> [learning_rate_share(step, 6, spec) for step in range(1, 7)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    warmup = round(spec.warmup_share * steps)
    if step <= warmup:
        return step / warmup
    if spec.decay == "constant":
        return 1.0
    progress = (step - warmup - 1) / max(steps - warmup, 1)
    if spec.decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate

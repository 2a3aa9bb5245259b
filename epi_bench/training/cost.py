"""What training costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TrainingCost:
    """What training has cost so far.

    Attributes:
        seconds: Wall time in the loop, hooks included.
        tokens: Tokens that went through the model, padding left out.
        supervised_tokens: Those among them that carried loss.
        skipped_steps: Steps whose gradients were not finite.
        trained_parameters: Parameters that got a gradient, in the experience where most did.
    """

    seconds: float = 0.0
    tokens: int = 0
    supervised_tokens: int = 0
    skipped_steps: int = 0
    trained_parameters: int = 0

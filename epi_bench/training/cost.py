"""What training costs."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class TrainingCost:
    """What training has cost so far.

    Attributes:
        seconds: Wall time in the loop, hooks included.
        tokens: Tokens that went through the model, padding left out.
        supervised_tokens: Those among them that carried loss.
        skipped_steps: Steps whose gradients were not finite.
        trained_parameters: Parameters that got a gradient, in the experience where most did.
        extra_tokens: Tokens that went through the model beside those of the steps, because the
            strategy asked for it: second gradients, probes, validation, Fisher passes.
        steps_made: Steps of each experience that the strategy has ended early; keys are the
            experiences' indices, written as text.
        held_out: In the same way, examples held out of an experience for validation.
    """

    seconds: float = 0.0
    tokens: int = 0
    supervised_tokens: int = 0
    skipped_steps: int = 0
    trained_parameters: int = 0
    extra_tokens: int = 0
    steps_made: dict[str, int] = field(default_factory=dict)
    held_out: dict[str, int] = field(default_factory=dict)

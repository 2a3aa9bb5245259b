"""What a strategy says about itself, so that one can choose before running anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FAMILIES: Mapping[str, str] = {
    "baseline": "full fine-tuning: what every other strategy is compared with",
    "averaging": "the finished weights lie between trained and earlier ones",
    "mask": "a part of the weights is trained, the rest is held still",
    "penalty": "weights are drawn back to where they were",
    "rehearsal": "examples of earlier experiences are kept and used again",
    "data": "the examples or tokens that are trained are chosen",
    "optimizer": "the optimizer steps with other gradients than the batch's",
    "adapter": "small matrices are trained beside the weights",
    "other": "strategies that name no family",
}
"""By what means strategies keep what was learned before, in the order in which they are shown."""

NEEDS: Mapping[str, str] = {
    "boundaries": "to be told where an experience ends",
    "old data": "training examples of earlier experiences, kept",
    "old weights": "a copy of the weights as they were earlier",
    "all tasks": "the data of all tasks from the beginning: no continual learner",
    "own loop": "the training loop of epi-bench: it works in no Trainer and no loop of your own",
}
"""What a strategy cannot do without, in words."""


@dataclass(frozen=True, slots=True)
class TradeOff:
    """The one option that trades learning for keeping, and the values that are worth trying.

    Attributes:
        option: Its name, as after ``--set``.
        values: From the one that protects least to the one that protects most; the default is
            among them.

    Example:
        >>> TradeOff("ratio", (0.1, 0.3, 0.5)).settings
        ({'ratio': 0.1}, {'ratio': 0.3}, {'ratio': 0.5})
    """

    option: str
    values: tuple[float, ...]

    @property
    def settings(self) -> tuple[dict[str, Any], ...]:
        """The options of a sweep over the values."""
        return tuple({self.option: value} for value in self.values)

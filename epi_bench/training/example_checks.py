"""Whether the examples that a strategy wants trained can be learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from epi_bench.errors import TrainingFailedError
from epi_bench.training.micro_batches import predicted_tokens

if TYPE_CHECKING:
    from epi_bench.model.chat.encoded_example import EncodedExample
    from epi_bench.strategy.hooks import Experience


def check_each_is_supervised(examples: Sequence[EncodedExample], experience: Experience) -> None:
    """Every example has something to learn.

    Raises:
        TrainingFailedError: If one has not.
    """
    empty = sum(not predicted_tokens(example) for example in examples)
    if empty:
        raise TrainingFailedError(
            f"{empty} of {len(examples)} training examples of {experience.name!r} have no "
            "supervised token after their first: leave them out of what the task or the "
            "strategy's training_examples returns"
        )


def check_some_count(examples: Sequence[EncodedExample], experience: Experience) -> None:
    """There are examples; some may weigh more or less than others, as long as one of them counts.

    Raises:
        TrainingFailedError: If none does, or a weight is negative or not finite.
    """
    if not examples:
        raise TrainingFailedError(
            f"there is nothing to train in {experience.name!r}: the strategy's "
            "training_examples returned no example"
        )
    wrong = next((e.weight for e in examples if not 0 <= e.weight < float("inf")), None)
    if wrong is not None:
        raise TrainingFailedError(
            f"a training example of {experience.name!r} has weight={wrong}: the strategy's "
            "training_examples must give weights of at least 0"
        )
    if not any(example.weight for example in examples):
        raise TrainingFailedError(
            f"every training example of {experience.name!r} has weight 0: the strategy's "
            "training_examples leaves nothing to learn"
        )

"""Test examples that a model is trained on: how many a run has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from epi_bench.task import Example, Message


@dataclass(frozen=True, slots=True)
class SplitOverlap:
    """How many test examples are in the training split too.

    Attributes:
        test: Test examples.
        prompts: Those whose prompt is trained on.
        answers: Those whose prompt is trained on with the same answer.
    """

    test: int
    prompts: int
    answers: int

    @property
    def warning(self) -> str | None:
        """One line about it; ``None`` if there is nothing to warn of."""
        if not self.prompts:
            return None
        return (
            f"{self.prompts} of {self.test} test prompts are in the training split too, "
            f"{self.answers} with the same answer"
        )


def split_overlap(train: Iterable[Example], test: Sequence[Example]) -> SplitOverlap:
    """Compare conversations by role and content, to the last character."""
    prompts: set[bytes] = set()
    whole: set[bytes] = set()
    for example in train:
        prompts.add(_digest(example.prompt))
        whole.add(_digest(example.messages))
    shared = [example for example in test if _digest(example.prompt) in prompts]
    same = sum(_digest(example.messages) in whole for example in shared)
    return SplitOverlap(len(test), len(shared), same)


def _digest(messages: Sequence[Message]) -> bytes:
    """In place of the text, which may be long and is there once already."""
    text = json.dumps([[message["role"], message["content"]] for message in messages])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()

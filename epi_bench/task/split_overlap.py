"""Test examples that a model is trained on: how many a run has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from epi_bench.task.example import Example, Message


@dataclass(frozen=True, slots=True)
class SplitOverlap:
    """How many test examples are in a training split too.

    Attributes:
        test: Test examples.
        prompts: Those whose prompt is trained on.
        answers: Those whose prompt is trained on with the same answer.
    """

    test: int
    prompts: int
    answers: int

    def warning(self, split: str = "the training split") -> str | None:
        """One line about it; ``None`` if there is nothing to warn of.

        Args:
            split: What the test examples were compared with.
        """
        if not self.prompts:
            return None
        return (
            f"{self.prompts} of {self.test} test prompts are in {split} too, "
            f"{self.answers} with the same answer"
        )


@dataclass(frozen=True, slots=True)
class TrainedConversations:
    """What is trained on, as hashes: the texts may be long and are there once already.

    Attributes:
        prompts: Of the conversations before their answers.
        whole: Of the conversations with their answers.
    """

    prompts: frozenset[bytes]
    whole: frozenset[bytes]

    @classmethod
    def of_all(cls, parts: Sequence[TrainedConversations]) -> TrainedConversations:
        """What is trained on by several tasks together."""
        prompts = frozenset[bytes]().union(*(part.prompts for part in parts))
        return cls(prompts, frozenset[bytes]().union(*(part.whole for part in parts)))

    def overlap(self, test: Sequence[Example]) -> SplitOverlap:
        """Compare with test examples by role and content, to the last character."""
        shared = [example for example in test if _digest(example.prompt) in self.prompts]
        same = sum(_digest(example.messages) in self.whole for example in shared)
        return SplitOverlap(len(test), len(shared), same)


def trained_conversations(train: Iterable[Example]) -> TrainedConversations:
    """The conversations of training examples."""
    prompts: set[bytes] = set()
    whole: set[bytes] = set()
    for example in train:
        prompts.add(_digest(example.prompt))
        whole.add(_digest(example.messages))
    return TrainedConversations(frozenset(prompts), frozenset(whole))


def _digest(messages: Sequence[Message]) -> bytes:
    text = json.dumps([[message["role"], message["content"]] for message in messages])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()

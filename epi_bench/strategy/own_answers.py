"""Answers that a model writes to training prompts, as training examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from epi_bench.model.sampling import sampled

if TYPE_CHECKING:
    import torch
    from torch import nn

    from epi_bench.model.chat.encoded_example import EncodedExample


def answer_ending(examples: Sequence[EncodedExample]) -> int | None:
    """The token that ends an answer, which most of the examples' answers end with.

    ``None`` if fewer than half have one in common: then no token marks the end.

    Args:
        examples: Training examples of one kind.
    """
    last = Counter(e.input_ids[e.last_answer][-1] for e in examples if e.supervised_tokens)
    if not last:
        return None
    token, count = last.most_common(1)[0]
    return token if 2 * count >= len(examples) else None


def prompt_of(example: EncodedExample) -> tuple[int, ...]:
    """The tokens before an example's last answer.

    Args:
        example: Any.
    """
    return example.input_ids[: example.last_answer.start]


def with_answer(example: EncodedExample, answer: Sequence[int]) -> EncodedExample:
    """An example with another last answer; what followed the answer is left out.

    Args:
        example: Its prompt, weight and earlier answers stay.
        answer: Token ids, with the one that ends it.

    >>> from epi_bench import EncodedExample
    >>> given = EncodedExample((5, 6, 7), (False, True, True))
    >>> with_answer(given, [8]).input_ids
    (5, 8)
    """
    start = example.last_answer.start
    return replace(
        example,
        input_ids=(*example.input_ids[:start], *answer),
        supervised=(*example.supervised[:start], *[True] * len(answer)),
    )


def longest_answer(examples: Sequence[EncodedExample]) -> int:
    """Tokens of the longest last answer.

    Args:
        examples: At least one.
    """
    return max(example.last_answer.stop - example.last_answer.start for example in examples)


def write_answers(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    ending: int,
    longest: int,
    count: int,
    generator: torch.Generator,
    temperature: float,
    top_p: float = 1.0,
) -> list[list[tuple[int, ...]]]:
    """Answers of a model to prompts.

    Args:
        model: Writes.
        prompts: Token ids up to where an answer begins.
        ending: The token that ends an answer.
        longest: Most tokens of an answer.
        count: Answers to each prompt, at least 1.
        generator: Of the draws, on the CPU.
        temperature: What the logits are divided by; 0 takes the likeliest token.
        top_p: Probability of the tokens that are drawn from.

    Returns:
        For each prompt its answers. One that has ended has the token that ends it as its last.
    """
    written = sampled(
        model,
        [prompt for prompt in prompts for _ in range(count)],
        longest=longest,
        is_ended=lambda new: new[-1] == ending,
        generator=generator,
        temperature=temperature,
        top_p=top_p,
    )
    answers = [tuple(ids) for ids in written]
    return [answers[start : start + count] for start in range(0, len(answers), count)]

"""New instances of a task that a model writes after a few examples of it.

All on tokens: what every prompt of a task begins and ends with (the chat template's frame, as a
rule) is read off the examples, and the model writes what stands between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from epi_bench.errors import UserError
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.model.sampling import sampled
from epi_bench.strategy.own_answers import answer_ending, prompt_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from epi_bench.strategy.hooks import StrategyContext

Prompt = tuple[int, ...]
"""Token ids up to where an answer begins."""

ROOM = 8
"""Tokens that a written prompt may be longer than twice the longest given one."""

NEAR = 0.9
"""Share of two prompts' tokens that they have in common, from which one is a copy of the other."""


@dataclass(frozen=True)
class PromptFrame:
    """What all prompts of a task have in common.

    Attributes:
        opening: How they begin.
        closing: How they end; what follows is the answer. Where the token that ends an answer ends
            a question, too, it begins with that one: what all questions say last is not of it.
        longest: Tokens of the longest between the two.
        ending: The token that ends an answer.
    """

    opening: Prompt
    closing: Prompt
    longest: int
    ending: int

    @classmethod
    def of(cls, examples: Sequence[EncodedExample]) -> PromptFrame:
        """Read off examples.

        Args:
            examples: At least one, of one task.

        Raises:
            UserError: If the prompts are all the same, have no end in common, or their answers do
                not end alike.

        >>> from epi_bench import EncodedExample
        >>> rows = [(2, 5, 3, 9, 1), (2, 6, 7, 3, 9, 1)]
        >>> flags = [(False,) * (len(row) - 2) + (True, True) for row in rows]
        >>> PromptFrame.of([EncodedExample(*pair) for pair in zip(rows, flags)])
        PromptFrame(opening=(2,), closing=(3,), longest=2, ending=1)
        """
        prompts = {prompt_of(example) for example in examples}
        shortest = min(map(len, prompts))
        opening = _common_beginning(prompts, shortest)
        closing = _common_beginning({p[::-1] for p in prompts}, shortest - len(opening))[::-1]
        ending = answer_ending(examples)
        if len(prompts) == 1:
            raise UserError("its prompts are all the same, so there is nothing to write")
        if not closing or ending is None:
            raise UserError(
                "its prompts or its answers do not end alike, so it is not known where one ends"
            )
        if ending in closing:
            closing = closing[max(i for i, token in enumerate(closing) if token == ending) :]
        longest = max(map(len, prompts)) - len(opening) - len(closing)
        return cls(opening, closing, longest, ending)

    @property
    def mark(self) -> Prompt:
        """The tokens by which a prompt that is being written is known to be complete."""
        return self.closing[:1] if self.closing[0] == self.ending else self.closing


@dataclass(frozen=True)
class WrittenPrompts:
    """What became of the texts that a model wrote.

    Attributes:
        prompts: Those that can be used, each once, in the order of writing.
        attempts: Texts that were begun.
        tokens: Tokens that were written.
        read: Tokens that the model was shown before it wrote.
    """

    prompts: list[Prompt]
    attempts: int
    tokens: int
    read: int

    @property
    def share(self) -> float:
        """Of the texts, those that can be used."""
        return len(self.prompts) / self.attempts


def write_prompts(
    model: nn.Module,
    seeds: Sequence[EncodedExample],
    frame: PromptFrame,
    *,
    attempts: int,
    shots: int,
    generator: torch.Generator,
    temperature: float,
    top_p: float,
) -> WrittenPrompts:
    """New prompts of a task, each written after a few of its examples.

    A text can be used if it comes to the frame's closing and holds something before it that is not
    of the frame, and is no copy of a seed or of a text before, nor nearly one of a seed.

    Args:
        model: Writes.
        seeds: Examples that it may be shown, at least ``shots``.
        frame: Of the task.
        attempts: Texts to begin, at least 1.
        shots: Examples that are shown before each text; 0 shows the opening alone.
        generator: Of all draws, on the CPU.
        temperature: What the logits are divided by.
        top_p: Probability of the tokens that are drawn from.
    """
    contexts = []
    for _ in range(attempts):
        order = torch.randperm(len(seeds), generator=generator)[:shots].tolist()
        shown = [token for position in order for token in seeds[position].input_ids]
        contexts.append([*shown, *frame.opening])
    if not contexts[0]:
        raise UserError(
            "its prompts do not begin alike, so the model has to be shown some: set shots to 1 or "
            "more"
        )
    size = len(frame.mark)
    texts = sampled(
        model,
        contexts,
        longest=2 * frame.longest + ROOM + size,
        is_ended=lambda new: new[-1] == frame.ending or tuple(new[-size:]) == frame.mark,
        generator=generator,
        temperature=temperature,
        top_p=top_p,
    )
    known = [prompt_of(seed) for seed in seeds]
    kept: dict[Prompt, None] = {}
    for text in texts:
        body = tuple(text[:-size])
        framed = {frame.ending, *frame.opening[:1]} & set(body)
        if tuple(text[-size:]) != frame.mark or not body or framed:
            continue
        prompt = (*frame.opening, *body, *frame.closing)
        if not any(alike(prompt, seed, frame) >= NEAR for seed in known):
            kept[prompt] = None
    written, read = (sum(map(len, rows)) for rows in (texts, contexts))
    return WrittenPrompts(list(kept), attempts, written, read)


def alike(first: Prompt, second: Prompt, frame: PromptFrame) -> float:
    """Tokens that two prompts have in common between opening and closing, as a share of all theirs.

    Args:
        first: A prompt.
        second: Another one.
        frame: Of both.
    """
    bodies = [set(p[len(frame.opening) : len(p) - len(frame.closing)]) for p in (first, second)]
    return len(bodies[0] & bodies[1]) / max(len(bodies[0] | bodies[1]), 1)


def prompt_embeddings(
    context: StrategyContext, model: nn.Module, prompts: Sequence[Prompt]
) -> Tensor:
    """The mean of a model's last hidden states over each prompt, on the CPU.

    Args:
        context: Of the strategy; gives the batches.
        model: A causal language model of transformers.
        prompts: In any order.
    """
    was_training, found = model.training, []
    model.eval()
    examples = [EncodedExample(prompt, (False,) * len(prompt)) for prompt in prompts]
    with torch.no_grad():
        for batch in context.batches(examples, batch_size=1):  # no padding
            hidden = model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                output_hidden_states=True,
            ).hidden_states[-1][0]
            found.append(hidden.float().mean(0).cpu())
    model.train(was_training)
    return torch.stack(found)


def representative(points: Tensor, count: int, clusters: int, seed: int) -> list[int]:
    """Positions of points that stand for all: from each cluster as many as its size asks for.

    k-means (scikit-learn's); of each cluster those nearest to its centre.

    Args:
        points: (number, dimensions).
        count: How many; all of them where there are fewer.
        clusters: At most so many.
        seed: Of the clustering, below 2^32.

    Returns:
        In rising order.
    """
    if len(points) <= count:
        return list(range(len(points)))
    from sklearn.cluster import KMeans

    found = KMeans(min(clusters, count), n_init=1, random_state=seed).fit(points.double().numpy())
    centres = torch.from_numpy(found.cluster_centers_)
    labels = torch.from_numpy(found.labels_).long()
    distances = (points.double() - centres[labels]).square().sum(1).tolist()
    members: dict[int, list[int]] = {}
    for position in sorted(
        range(len(points)), key=lambda position: (distances[position], position)
    ):
        members.setdefault(int(labels[position]), []).append(position)
    quotas = {label: count * len(inside) / len(points) for label, inside in members.items()}
    taken = {label: int(quota) for label, quota in quotas.items()}
    rest = sorted(quotas, key=lambda label: (taken[label] - quotas[label], label))
    for label in rest[: count - sum(taken.values())]:
        taken[label] += 1
    return sorted(p for label, inside in members.items() for p in inside[: taken[label]])


def _common_beginning(rows: set[Prompt], most: int) -> Prompt:
    """At most so many tokens with which all rows begin."""
    first, last = min(rows), max(rows)  # in lexical order, so all others share what these do
    size = next(
        (i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]),
        min(len(first), len(last)),
    )
    return first[: min(size, most)]

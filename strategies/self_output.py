"""Train on the model's own answers where they are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from epi_bench import (
    EncodedExample,
    Experience,
    Strategy,
    TradeOff,
    UserError,
    answer_ending,
    frozen_copy,
    longest_answer,
    prompt_of,
    register_strategy,
    with_answer,
    write_answers,
)

if TYPE_CHECKING:
    from epi_bench import TrainingSpec

ROOM = 8
"""Tokens that an answer may be longer than twice the longest given one."""


@register_strategy("self_output")
class SelfOutput(Strategy):
    """Each training answer is replaced by one that the model wrote, if the task scores it as right.

    Before an experience the model answers every training prompt ``candidates`` times; the first
    answer that ends, and that the task's own scoring gives at least ``least_score``, is trained in
    place of the given one. Where no answer is right, the given one is trained. An answer in the
    model's own words changes it least (arXiv 2501.14315, where it is the strong baseline beside
    ``stm``; Yang et al. 2024, arXiv 2402.13669).

    A task that accepts one answer only, as those that are scored by options or by forced tokens do,
    is trained as full fine-tuning does. The task's scoring is asked, so it works in ``epi-bench
    run`` and not in other trainers. Costs the writing of ``candidates`` answers to each prompt, and
    with more than one experience a copy of the base model.

    Args:
        candidates: Answers to each prompt, at least 1; 0 is full fine-tuning.
        temperature: What the logits are divided by when answers are drawn, at least 0; 0 writes the
            likeliest one, of which there is but one.
        top_p: Each token is drawn from the likeliest ones with this probability together, in
            (0, 1].
        least_score: The task's score from which an answer is right, in (0, 100].
        writer: ``base``: the model as it was loaded answers; ``present``: as the experience found
            it, which needs no copy.
    """

    family = "data"
    needs = ("old weights",)
    bytes_per_parameter = "4"
    trade_off = TradeOff("candidates", (1, 2, 4, 8))
    evidence = (
        "On one model and one task its authors report less forgetting than fine-tuning and more "
        "learned (arXiv 2501.14315)."
    )

    scores_answers = True

    def __init__(
        self,
        candidates: int = 4,
        temperature: float = 1.0,
        top_p: float = 1.0,
        least_score: float = 100.0,
        writer: Literal["base", "present"] = "base",
    ) -> None:
        if candidates < 0:
            raise UserError(f"self_output: candidates={candidates} must be at least 0")
        if not temperature >= 0:
            raise UserError(f"self_output: temperature={temperature} must be at least 0")
        if not 0 < top_p <= 1:
            raise UserError(f"self_output: top_p={top_p} must lie in (0, 1]")
        if not 0 < least_score <= 100:
            raise UserError(f"self_output: least_score={least_score} must lie in (0, 100]")
        self.candidates = candidates
        self.temperature = temperature
        self.top_p = top_p
        self.least_score = least_score
        self.writer = writer
        self._base: nn.Module | None = None
        self._replaced = torch.tensor(0.0)
        self._written = torch.tensor(0)

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """A warning where no answer is written."""
        return [] if self.candidates else ["self_output with candidates=0 trains as full_sft does"]

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Keep a copy of the base, if it is to answer later experiences, too."""
        if self.candidates and self.writer == "base" and self.context.experience_count > 1:
            self._base = frozen_copy(model)
        return model

    def training_examples(self, experience: Experience) -> Sequence[EncodedExample]:
        """The experience's examples, with the model's own answers where they are right."""
        if not self.candidates:
            return experience.examples
        self.context.answer_scores(experience, [])  # a training without tasks is told before
        ending = answer_ending(experience.examples)
        if ending is None:
            raise UserError(
                f"self_output: the answers of {experience.name!r} do not end alike, so it is not "
                "known where an answer of the model ends: raise data.max_length"
            )
        prompts = [prompt_of(example) for example in experience.examples]
        count = 1 if self.temperature == 0 else self.candidates
        answers = write_answers(
            self._base or self.context.model,
            prompts,
            ending=ending,
            longest=2 * longest_answer(experience.examples) + ROOM,
            count=count,
            generator=self.context.torch_generator(f"own answers of experience {experience.index}"),
            temperature=self.temperature,
            top_p=self.top_p,
        )
        written = sum(len(ids) for row in answers for ids in row)
        self._written = self._written + written
        self.context.count_tokens(count * sum(map(len, prompts)) + written)
        right = self._right(experience, answers, ending)
        self._replaced = torch.tensor(len(right) / len(experience.examples))
        return [
            with_answer(example, right[position]) if position in right else example
            for position, example in enumerate(experience.examples)
        ]

    def diagnostics(self) -> dict[str, float]:
        """Share of the last experience's answers that are the model's own, and tokens written."""
        return {
            "replaced_share": float(self._replaced),
            "generated_tokens": float(self._written),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Both; the base is loaded again."""
        return {"replaced": self._replaced, "written": self._written}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take them up."""
        self._replaced, self._written = state["replaced"].clone(), state["written"].clone()

    def state_bytes(self) -> int:
        """Bytes of the copy and of two numbers."""
        held = self._base.parameters() if self._base is not None else ()
        return super().state_bytes() + sum(p.numel() * p.element_size() for p in held)

    def _right(
        self, experience: Experience, answers: Sequence[Sequence[tuple[int, ...]]], ending: int
    ) -> dict[int, tuple[int, ...]]:
        """By the position of an example, the first of its answers that is right."""
        ended = [
            (position, ids)
            for position, row in enumerate(answers)
            for ids in row
            if ids and ids[-1] == ending
        ]
        scores = self.context.answer_scores(experience, [(p, ids[:-1]) for p, ids in ended])
        right: dict[int, tuple[int, ...]] = {}
        for (position, ids), score in zip(ended, scores, strict=True):
            if score >= self.least_score:
                right.setdefault(position, ids)
        return right

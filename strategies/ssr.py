"""Self-synthesised rehearsal: the model writes the old tasks' examples itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from epi_bench import (
    EncodedExample,
    Experience,
    Prompt,
    PromptFrame,
    Strategy,
    TradeOff,
    UserError,
    WrittenPrompts,
    examples_as_tensors,
    examples_from_tensors,
    frozen_copy,
    longest_answer,
    prompt_embeddings,
    prompt_of,
    register_strategy,
    representative,
    with_replayed,
    write_answers,
    write_prompts,
)

if TYPE_CHECKING:
    from epi_bench import TrainingSpec

COUNTS = ("attempts", "usable", "generated_tokens", "test_prompts", "kept")
"""What is counted over the whole run."""


@register_strategy("ssr")
class SelfSynthesisedRehearsal(Strategy):
    """Replay without old data: each finished task's examples are written by the model.

    Self-synthesised rehearsal (Huang et al. 2024, arXiv 2403.01244). At the end of a task

    1. the base model, shown ``shots`` of ``seeds`` training examples, writes new prompts of the
       task, each token drawn; those that are complete and no copies are usable;
    2. the model that has just learned the task answers them, with the likeliest tokens;
    3. ``per_task`` of them are kept: prompts are clustered by the mean of their last hidden states,
       and from each cluster the nearest to its centre are taken, as many as its size asks for.

    In later tasks a ``share`` of the training examples comes from what was kept. No example of an
    old task is stored. If less than ``least_yield`` of the texts is usable, the run ends with an
    error: a model that cannot write a task's prompts cannot rehearse it.

    Costs, once a task, the writing of ``attempts`` times ``per_task`` prompts and of as many
    answers as are kept, and a copy of the base model if that is the writer. How many of the
    prompts are test prompts of the run is counted, not used.

    Args:
        per_task: Examples that are kept of each task, at least 1.
        share: Share of replayed examples among those trained on, in [0, 1); 0 is full fine-tuning.
        shots: Examples that the writer is shown before each prompt, at least 0.
        seeds: Training examples that these are drawn from, at least ``shots``.
        attempts: Texts that are begun for each example to keep, at least 1.
        writer: ``base``: the model as it was loaded writes the prompts; ``latest``: the one that
            has just learned the task, which needs no copy.
        answers: ``latest``: after each task the newest model answers the prompts of all tasks
            anew, as published; ``own``: the answers stay those of the model that had just learned
            the task.
        temperature: What the logits are divided by when prompts are drawn, above 0.
        top_p: Each token is drawn from the likeliest ones with this probability together, in
            (0, 1].
        clusters: At most so many, at least 1.
        least_yield: Share of usable texts below which the run ends, in [0, 1].
    """

    family = "rehearsal"
    needs = ("boundaries", "old weights")
    bytes_per_parameter = "4"
    trade_off = TradeOff("share", (0.05, 0.125, 0.25, 0.5))
    evidence = (
        "Its authors report it to be about as good as replay of real examples. A model that is too "
        "small to write prompts cannot use it."
    )

    acts_from = 1

    def __init__(
        self,
        per_task: int = 200,
        share: float = 0.25,
        shots: int = 2,
        seeds: int = 16,
        attempts: int = 3,
        writer: Literal["base", "latest"] = "base",
        answers: Literal["latest", "own"] = "latest",
        temperature: float = 1.0,
        top_p: float = 1.0,
        clusters: int = 20,
        least_yield: float = 0.1,
    ) -> None:
        for option, value, least in (
            ("per_task", per_task, 1),
            ("shots", shots, 0),
            ("attempts", attempts, 1),
            ("clusters", clusters, 1),
        ):
            if value < least:
                raise UserError(f"ssr: {option}={value} must be at least {least}")
        if seeds < shots:
            raise UserError(f"ssr: seeds={seeds} must be at least shots={shots}")
        if not 0 <= share < 1:
            raise UserError(f"ssr: share={share} must lie in [0, 1)")
        if not temperature > 0:
            raise UserError(f"ssr: temperature={temperature} must be above 0")
        if not 0 < top_p <= 1:
            raise UserError(f"ssr: top_p={top_p} must lie in (0, 1]")
        if not 0 <= least_yield <= 1:
            raise UserError(f"ssr: least_yield={least_yield} must lie in [0, 1]")
        self.per_task = per_task
        self.share = share
        self.shots = shots
        self.seeds = seeds
        self.attempts = attempts
        self.writer = writer
        self.answers = answers
        self.temperature = temperature
        self.top_p = top_p
        self.clusters = clusters
        self.least_yield = least_yield
        self._base: nn.Module | None = None
        self._kept: list[list[EncodedExample]] = []
        self._limits: list[tuple[int, int]] = []  # of each task's answers: ending, longest
        self._counts = dict.fromkeys(COUNTS, 0)

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """A warning where nothing is replayed."""
        return [] if self.share else ["ssr with share=0 trains as full_sft does"]

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Keep a copy of the base, if it is to write."""
        if self.share and self.writer == "base":
            self._base = frozen_copy(model)
        return model

    def training_examples(self, experience: Experience) -> Sequence[EncodedExample]:
        """The experience's own examples, and as many written ones as the share asks for."""
        written = [example for task in self._kept for example in task]
        if not written:
            return experience.examples
        generator = self.context.generator(f"replayed examples of experience {experience.index}")
        return with_replayed(experience.examples, written, self.share, generator)

    def end_experience(self, experience: Experience) -> None:
        """Write examples of what has just been learned, and answer the older ones anew."""
        if not self.share:
            return
        if self.answers == "latest":
            for number, task in enumerate(self._kept):
                prompts = [prompt_of(example) for example in task]
                purpose = f"answers of experience {number} after {experience.index}"
                self._kept[number] = self._answered(prompts, *self._limits[number], purpose)
        prompts, limits = self._written_prompts(experience)
        purpose = f"answers of experience {experience.index}"
        self._kept.append(self._answered(prompts, *limits, purpose))
        self._limits.append(limits)
        self._counts["kept"] = sum(map(len, self._kept))

    def diagnostics(self) -> dict[str, float]:
        """Share of usable texts, and what has been counted so far; nothing before the first end."""
        if not self._kept:
            return {}
        found = {name: float(count) for name, count in self._counts.items()}
        return found | {"yield": found["usable"] / found["attempts"]}

    def state_dict(self) -> dict[str, Tensor]:
        """What was written, and the counts; the base is loaded again."""
        state = examples_as_tensors([example for task in self._kept for example in task])
        state["parts"] = torch.tensor([len(task) for task in self._kept], dtype=torch.int64)
        state["limits"] = torch.tensor(self._limits, dtype=torch.int64)
        return state | {name: torch.tensor(count) for name, count in self._counts.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take both up."""
        written = iter(examples_from_tensors(state))
        parts = state["parts"].tolist()
        self._kept = [[next(written) for _ in range(part)] for part in parts]
        self._limits = [(ending, longest) for ending, longest in state["limits"].tolist()]
        self._counts = {name: int(state[name]) for name in COUNTS}

    def state_bytes(self) -> int:
        """Bytes of what was written, of the counts and of the copy."""
        held = self._base.parameters() if self._base is not None else ()
        return super().state_bytes() + sum(p.numel() * p.element_size() for p in held)

    def _written_prompts(self, experience: Experience) -> tuple[list[Prompt], tuple[int, int]]:
        """New prompts of the experience's tasks; what ends an answer to them, and the longest."""
        examples = list(experience.examples)
        draws = self.context.generator(f"seeds of experience {experience.index}")
        seeds = draws.sample(examples, min(self.seeds, len(examples)))
        try:
            frame = PromptFrame.of(examples)
            written = write_prompts(
                self._base or self.context.model,
                seeds,
                frame,
                attempts=self.attempts * self.per_task,
                shots=self.shots,
                generator=self.context.torch_generator(f"prompts of experience {experience.index}"),
                temperature=self.temperature,
                top_p=self.top_p,
            )
        except UserError as error:
            raise UserError(f"ssr cannot rehearse {experience.name!r}: {error}") from error
        self._count(written)
        if written.share < self.least_yield or not written.prompts:
            raise UserError(
                f"ssr: of {written.attempts} texts that the model wrote for {experience.name!r}, "
                f"{len(written.prompts)} can be used, and least_yield asks for "
                f"{self.least_yield:.0%}: give a model that writes such prompts, or use replay"
            )
        points = prompt_embeddings(self.context, self.context.model, written.prompts)
        chosen = representative(points, self.per_task, self.clusters, draws.randrange(2**32))
        limits = frame.ending, longest_answer(examples)
        return [written.prompts[position] for position in chosen], limits

    def _count(self, written: WrittenPrompts) -> None:
        self._counts["attempts"] += written.attempts
        self._counts["usable"] += len(written.prompts)
        self._counts["generated_tokens"] += written.tokens
        self.context.count_tokens(written.read + written.tokens)
        self._counts["test_prompts"] += self.context.test_prompts_among(written.prompts) or 0

    def _answered(
        self, prompts: Sequence[Prompt], ending: int, longest: int, purpose: str
    ) -> list[EncodedExample]:
        """The prompts with the present model's likeliest answers; a longer one is cut."""
        rows = write_answers(
            self.context.model,
            prompts,
            ending=ending,
            longest=longest,
            count=1,
            generator=self.context.torch_generator(purpose),
            temperature=0.0,
        )
        written = sum(len(ids) for row in rows for ids in row)
        self._counts["generated_tokens"] += written
        self.context.count_tokens(sum(map(len, prompts)) + written)
        return [
            EncodedExample((*prompt, *ids), (False,) * len(prompt) + (True,) * len(ids))
            for prompt, (ids,) in zip(prompts, rows, strict=True)
            if ids
        ]

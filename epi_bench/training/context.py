"""What the training loop lets a strategy see and use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from epi_bench.errors import TrainingFailedError, UserError
from epi_bench.model.batching import collate
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.model.losses import mean_loss
from epi_bench.spec.randomness import seeded_generator
from epi_bench.strategy.hooks import Experience, ValidationSplit
from epi_bench.training.cost import TrainingCost

if TYPE_CHECKING:
    import random

    from torch import Tensor


class BaseTexts(Protocol):
    """Gives examples of what a base model can do."""

    def __call__(
        self, model: nn.Module, source: str, count: int, generator: torch.Generator
    ) -> Sequence[EncodedExample]:
        """At most ``count`` examples of a source; every draw is the generator's."""


class TaskKnowledge(Protocol):
    """What is known of the tasks that are trained, beside their encoded examples."""

    def answer_scores(
        self, experience: Experience, answers: Sequence[tuple[int, Sequence[int]]]
    ) -> list[float]:
        """Scores, 0..100, of answers to examples of an experience."""

    def test_prompts_among(self, prompts: Sequence[Sequence[int]]) -> int:
        """How many prompts are those of test examples."""


@dataclass
class TrainingContext:
    """What strategies are offered; see :class:`epi_bench.strategy.hooks.StrategyContext`.

    Attributes:
        stream: What ``experiences`` gives; ``None`` if the strategy may not see it.
        cost: Takes what strategies spend.
        train_plainly: What ``probe`` does; ``None`` where nothing can.
    """

    model: nn.Module
    seed: int
    device: torch.device
    pad_token_id: int
    total_steps: int
    experience_count: int
    optimizer: torch.optim.Optimizer | None = None
    base_texts: BaseTexts | None = None
    stream: Sequence[Experience] | None = None
    cost: TrainingCost = field(default_factory=TrainingCost)
    train_plainly: Callable[[Sequence[EncodedExample], int, str], None] | None = None

    @property
    def experiences(self) -> Sequence[Experience]:
        if self.stream is None:
            raise UserError(
                "only strategies whose needs name 'all tasks' see the whole stream, and only in "
                "the training loop of epi-bench"
            )
        return self.stream

    tasks: TaskKnowledge | None = None

    def generator(self, purpose: str) -> random.Random:
        return seeded_generator(purpose, self.seed)

    def torch_generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(self.generator(purpose).getrandbits(63))

    def base_experience(self, source: str, count: int) -> Experience:
        if self.base_texts is None:
            raise UserError(
                f"the strategy asks for texts of the base model ({source!r}), and this training "
                "has none: set protect_base to none, or choose another source"
            )
        generator = self.torch_generator(f"base examples of {source}")
        examples = self.base_texts(self.model, source, count, generator)
        return Experience(-1, "base model", (), examples, 0)

    def validation_split(self, experience: Experience, count: int) -> ValidationSplit:
        examples = list(experience.examples)
        distinct = list(dict.fromkeys(examples))  # of equal ones none is on both sides
        if len(distinct) < 2:
            raise TrainingFailedError(
                f"{experience.name!r} has {len(distinct)} different training examples, too few to "
                "hold one out for validation: give it more, or another strategy"
            )
        generator = self.generator(f"validation examples of experience {experience.index}")
        held = set(generator.sample(distinct, min(count, len(distinct) // 2)))
        self.cost.held_out[str(experience.index)] = len(held)
        return ValidationSplit(
            [example for example in examples if example not in held],
            [example for example in distinct if example in held],
        )

    def probe(self, examples: Sequence[EncodedExample], steps: int, purpose: str) -> None:
        if self.train_plainly is None:
            raise UserError("only the training loop of epi-bench trains on behalf of a strategy")
        self.train_plainly(examples, steps, purpose)

    def count_tokens(self, tokens: int) -> None:
        self.cost.extra_tokens += tokens

    def answer_scores(
        self, experience: Experience, answers: Sequence[tuple[int, Sequence[int]]]
    ) -> list[float]:
        if self.tasks is None:
            raise UserError(
                "the strategy has answers scored as the tasks score them, and this training knows "
                "of no task: use it in epi-bench run"
            )
        return self.tasks.answer_scores(experience, answers)

    def test_prompts_among(self, prompts: Sequence[Sequence[int]]) -> int | None:
        return None if self.tasks is None else self.tasks.test_prompts_among(prompts)

    def batches(
        self, examples: Sequence[EncodedExample], batch_size: int
    ) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(examples), batch_size):
            self.cost.extra_tokens += sum(map(len, examples[start : start + batch_size]))
            yield collate(examples[start : start + batch_size], self.pad_token_id, self.device)

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return mean_loss(model, batch)

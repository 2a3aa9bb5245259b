"""What the hooks of a strategy are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import random

    import torch
    from torch import Tensor, nn

    from epi_bench.model.chat.encoded_example import EncodedExample


@dataclass(frozen=True, slots=True)
class Experience:
    """One stage of the stream: its training examples and its number of optimizer steps.

    Attributes:
        index: Position in the stream, from 0; -1 for ``base_experience``.
        name: As the stream calls it; a task's name in the sequential stream.
        tasks: The tasks it trains.
        examples: Its encoded training examples.
        steps: Optimizer steps it lasts.
    """

    index: int
    name: str
    tasks: tuple[str, ...]
    examples: Sequence[EncodedExample]
    steps: int


@dataclass(slots=True)
class Step:
    """One optimizer step, as the per-step hooks see it.

    Attributes:
        number: From 1, counted over the whole run.
        number_in_experience: From 1, counted from the experience's beginning.
        experience: The experience under way.
        model: The model being trained, without any wrapper for several processes.
        optimizer: The ``torch.optim`` optimizer.
        loss: Mean loss of the step's supervised tokens, detached, a scalar tensor.
        skipped: Whether its gradients were not finite, so that nothing was updated; the per-step
            hooks never see such a step.
    """

    number: int
    number_in_experience: int
    experience: Experience
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Tensor
    skipped: bool = False


class StrategyContext(Protocol):
    """What the training loop offers to a strategy, as ``self.context``, from the first hook on."""

    @property
    def seed(self) -> int:
        """The run's seed."""

    @property
    def model(self) -> nn.Module:
        """The model being trained, as ``prepare_model`` returned it, without any wrapper."""

    @property
    def device(self) -> torch.device:
        """Where the model lives."""

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""

    @property
    def experience_count(self) -> int:
        """Experiences of the whole run."""

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """That of the experience under way; ``None`` before its first step."""

    def generator(self, purpose: str) -> random.Random:
        """A generator of its own for a purpose; the same seed and purpose give the same draws."""

    def torch_generator(self, purpose: str) -> torch.Generator:
        """The same for torch, on the CPU."""

    def base_experience(self, source: str, count: int) -> Experience:
        """Examples of what the base model can do, as an experience of no steps.

        Args:
            source: ``general_text`` (the run's), ``self`` (text that the model writes now, each
                token drawn with the probability that it gives it), or the path of a text file.
            count: Most examples, at least 1; each is a piece of text of up to 128 tokens, of which
                every one but the first is supervised.

        Raises:
            UserError: If the text is too short, or the training offers none.
        """

    def answer_scores(
        self, experience: Experience, answers: Sequence[tuple[int, Sequence[int]]]
    ) -> list[float]:
        """How the tasks of an experience score answers to its training examples, 0..100.

        By the tasks' own scoring of what a model writes, which may run code. Where a task scores
        options or forced tokens, an answer is right, 100, if it says what the given one does, and 0
        otherwise.

        Args:
            experience: Whose own examples were answered.
            answers: Position of an example, and the tokens that follow its prompt in place of its
                last answer.

        Raises:
            UserError: If the training knows of no task.
        """

    def test_prompts_among(self, prompts: Sequence[Sequence[int]]) -> int | None:
        """How many prompts are those of test examples; ``None`` if the training knows of none.

        Args:
            prompts: Token ids up to where an answer begins.
        """

    def batches(
        self, examples: Sequence[EncodedExample], batch_size: int
    ) -> Iterator[dict[str, Tensor]]:
        """Model inputs (``input_ids``, ``attention_mask``, ``labels``) on the device, in order."""

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean cross-entropy of the batch's supervised tokens, in nats, with its graph."""

"""What the hooks of a strategy are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from epi_bench.errors import UserError

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
        steps: Optimizer steps it lasts, at most (:meth:`Strategy.stop_experience`).
    """

    index: int
    name: str
    tasks: tuple[str, ...]
    examples: Sequence[EncodedExample]
    steps: int


class ValidationSplit(NamedTuple):
    """An experience's own training examples in two parts that have no example in common.

    Attributes:
        training: What is left to train on, in their order.
        validation: What is held out, in their order; equal examples count once.
    """

    training: Sequence[EncodedExample]
    validation: Sequence[EncodedExample]


def no_second_pass() -> Tensor:
    """What a step has instead of its gradients' second computation, where there is none."""
    raise UserError("this training loop cannot compute the gradients of a step a second time")


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
        recompute_gradients: To be called within ``gradients_ready``: puts in place of the gradients
            those of the same micro-batches at the weights of now, with the same dropout masks, and
            returns their loss as in ``loss``.
        ends_early: Whether the strategy has ended the experience with this step.
    """

    number: int
    number_in_experience: int
    experience: Experience
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Tensor
    skipped: bool = False
    recompute_gradients: Callable[[], Tensor] = no_second_pass
    ends_early: bool = False


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

    @property
    def experiences(self) -> Sequence[Experience]:
        """The whole stream, for strategies that say so (``needs``: ``all tasks``).

        Raises:
            UserError: If the strategy does not say so, or the training does not know its stream.
        """

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

    def validation_split(self, experience: Experience, count: int) -> ValidationSplit:
        """Examples held out of an experience's own training examples, drawn at random.

        The same experience and number give the same parts, whenever it is asked. Only examples of
        the training split are drawn from, never test examples. A strategy that validates returns
        the first part from ``training_examples``, else it would validate on what it trains.

        Args:
            experience: The one under way.
            count: Examples to hold out, at least 1; at most half of those that differ are.

        Raises:
            TrainingFailedError: If there are no two different examples.
        """

    def probe(self, examples: Sequence[EncodedExample], steps: int, purpose: str) -> None:
        """Train the model plainly for some steps, between the steps of the run.

        Without hooks, with an optimizer and a learning-rate schedule of its own, as the run's
        settings say for an experience of so many steps. The model stays where that ends: what it
        was before is for the strategy to keep and to put back.

        Args:
            examples: What the batches are drawn from.
            steps: Optimizer steps, at least 1.
            purpose: Names the draw of the batches.

        Raises:
            UserError: If this is not the training loop of the package.
            TrainingFailedError: If the loss is not finite.
        """

    def count_tokens(self, tokens: int) -> None:
        """Count tokens that the strategy sends through a model by itself, as part of the cost.

        Those of :meth:`batches` are counted there.

        Args:
            tokens: Without padding; a text that is written counts each token once.
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

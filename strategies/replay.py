"""Experience replay: old examples are mixed into every new experience."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from epi_bench import (
    EncodedExample,
    ExampleMemory,
    Experience,
    Strategy,
    TradeOff,
    UserError,
    register_strategy,
    token_losses,
    with_replayed,
)

if TYPE_CHECKING:
    from epi_bench import TrainingSpec


@register_strategy("replay")
class Replay(Strategy):
    """A share of each batch, on average, comes from a memory of earlier experiences.

    The memory is a sample of everything seen so far, of a fixed size; a uniform one by default, by
    reservoir sampling (Vitter 1985; for continual learning: Chaudhry et al. 2019, arXiv
    1902.10486). The number of training steps stays the same, so replayed examples take the place of
    new ones.

    Where no old examples are at hand, ``source`` fills the memory once, before the first step, with
    other text that says what the base model can do, and it is replayed from the first experience
    on. For examples of old tasks that the model writes itself see ``ssr``.

    Args:
        memory_size: Examples kept in all, at least 1.
        share: Share of replayed examples among those trained on, in [0, 1).
        memory: ``reservoir``: every example seen is kept with the same probability;
            ``balanced``: every experience has the same number of examples in the memory;
            ``loss``: as ``reservoir``, but examples that the model knows well (in nats a token, at
            the end of each experience) make room sooner.
        source: ``old_tasks``: training examples of earlier experiences; ``general_text``: the run's
            general text; ``self``: text that the base model writes. Pieces of up to 128 tokens.
    """

    family = "rehearsal"
    needs = ("boundaries",)
    bytes_per_parameter = "0"
    trade_off = TradeOff("share", (0.05, 0.125, 0.25, 0.5))
    search_space = (
        {"share": 0.125},
        {"share": 0.25},
        {"share": 0.5},
    )
    evidence = (
        "Ends highest on the embedded suite. It needs old examples, which not everybody may keep."
    )

    later_options: ClassVar[Mapping[str, Any]] = {
        "memory": "reservoir",
        "source": "old_tasks",
    }

    stores_examples = True
    acts_from = 1

    def __init__(
        self,
        memory_size: int = 256,
        share: float = 0.25,
        memory: Literal["reservoir", "balanced", "loss"] = "reservoir",
        source: Literal["old_tasks", "general_text", "self"] = "old_tasks",
    ) -> None:
        if memory_size < 1:
            raise UserError(f"replay: memory_size={memory_size} must be at least 1")
        if not 0 <= share < 1:
            raise UserError(f"replay: share={share} must lie in [0, 1)")
        self.memory_size = memory_size
        self.share = share
        self.source = source
        self._memory = ExampleMemory(memory_size, memory)
        if source != "old_tasks":
            self.acts_from = 0

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """A warning where nothing is replayed, or what is reported is measured on what is."""
        if self.share == 0:
            return ["replay with share=0 trains as full_sft does"]
        if self.source != "general_text":
            return ()
        return [
            "replay: source=general_text trains on the run's general text, and the loss on that "
            "text is reported too: it looks better than it would on another text"
        ]

    def begin_training(self) -> None:
        """Fill the memory, unless examples of old tasks are to fill it."""
        if self.source != "old_tasks":
            base = self.context.base_experience(self.source, self.memory_size)
            self._memory.examples = list(base.examples)

    def training_examples(self, experience: Experience) -> Sequence[EncodedExample]:
        """The experience's own examples and as many old ones as the share asks for."""
        generator = self.context.generator(f"replayed examples of experience {experience.index}")
        return with_replayed(experience.examples, self._memory.examples, self.share, generator)

    def end_experience(self, experience: Experience) -> None:
        """Offer every example of the experience to the memory."""
        if self.source == "old_tasks":
            generator = self.context.generator(f"reservoir of experience {experience.index}")
            self._memory.offer(experience.examples, generator, self._losses)

    def state_dict(self) -> dict[str, Tensor]:
        """The memory."""
        return self._memory.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take it up."""
        self._memory.load_state_dict(state)

    def _losses(self, examples: Sequence[EncodedExample]) -> list[float]:
        """Of the model as it is now, in nats a token."""
        found = token_losses(self.context, self.context.model, examples)
        return [float(losses.nanmean()) for losses in found]

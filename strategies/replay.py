"""Experience replay: old examples are mixed into every new experience."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from epi_bench import (
    EncodedExample,
    ExampleMemory,
    Experience,
    Strategy,
    TradeOff,
    UserError,
    register_strategy,
)


@register_strategy("replay")
class Replay(Strategy):
    """A share of each batch, on average, comes from a memory of earlier experiences.

    The memory is a sample of everything seen so far, of a fixed size; a uniform one by default, by
    reservoir sampling (Vitter 1985; for continual learning: Chaudhry et al. 2019, arXiv
    1902.10486). The number of training steps stays the same, so replayed examples take the place of
    new ones.

    Args:
        memory_size: Examples kept in all, at least 1.
        share: Share of replayed examples among those trained on, in [0, 1).
        memory: ``reservoir``: every example seen is kept with the same probability;
            ``balanced``: every experience has the same number of examples in the memory.
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

    later_options: ClassVar[Mapping[str, Any]] = {"memory": "reservoir"}

    stores_examples = True
    acts_from = 1

    def __init__(
        self,
        memory_size: int = 256,
        share: float = 0.25,
        memory: Literal["reservoir", "balanced"] = "reservoir",
    ) -> None:
        if memory_size < 1:
            raise UserError(f"replay: memory_size={memory_size} must be at least 1")
        if not 0 <= share < 1:
            raise UserError(f"replay: share={share} must lie in [0, 1)")
        self.memory_size = memory_size
        self.share = share
        self._memory = ExampleMemory(memory_size, memory)

    def training_examples(self, experience: Experience) -> Sequence[EncodedExample]:
        """The experience's own examples and as many old ones as the share asks for."""
        own = list(experience.examples)
        if not len(self._memory):
            return own
        wanted = round(len(own) * self.share / (1 - self.share))
        generator = self.context.generator(f"replayed examples of experience {experience.index}")
        replayed: list[EncodedExample] = []
        while len(replayed) < wanted:
            replayed += generator.sample(self._memory.examples, len(self._memory))
        return own + replayed[:wanted]

    def end_experience(self, experience: Experience) -> None:
        """Offer every example of the experience to the memory."""
        generator = self.context.generator(f"reservoir of experience {experience.index}")
        self._memory.offer(experience.examples, generator)

    def state_dict(self) -> dict[str, Tensor]:
        """The memory."""
        return self._memory.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take it up."""
        self._memory.load_state_dict(state)

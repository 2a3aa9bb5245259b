"""Experience replay: old examples are mixed into every new experience."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from epi_bench import (
    EncodedExample,
    Experience,
    Strategy,
    UserError,
    register_strategy,
)


@register_strategy("replay")
class Replay(Strategy):
    """A share of each batch, on average, comes from a memory of earlier experiences.

    The memory is a uniform sample of everything seen so far, of a fixed size, kept by reservoir
    sampling (Vitter 1985; for continual learning: Chaudhry et al. 2019, arXiv 1902.10486). The
    number of training steps stays the same, so replayed examples take the place of new ones.

    Args:
        memory_size: Examples kept in all, at least 1.
        share: Share of replayed examples among those trained on, in [0, 1).
    """

    stores_examples = True
    acts_from = 1

    def __init__(self, memory_size: int = 256, share: float = 0.25) -> None:
        if memory_size < 1:
            raise UserError(f"replay: memory_size={memory_size} must be at least 1")
        if not 0 <= share < 1:
            raise UserError(f"replay: share={share} must lie in [0, 1)")
        self.memory_size = memory_size
        self.share = share
        self._memory: list[EncodedExample] = []
        self._seen = 0

    def training_examples(self, experience: Experience) -> Sequence[EncodedExample]:
        """The experience's own examples and as many old ones as the share asks for."""
        own = list(experience.examples)
        if not self._memory:
            return own
        wanted = round(len(own) * self.share / (1 - self.share))
        generator = self.context.generator(f"replayed examples of experience {experience.index}")
        replayed: list[EncodedExample] = []
        while len(replayed) < wanted:
            replayed += generator.sample(self._memory, len(self._memory))
        return own + replayed[:wanted]

    def end_experience(self, experience: Experience) -> None:
        """Offer every example of the experience to the reservoir."""
        generator = self.context.generator(f"reservoir of experience {experience.index}")
        for example in experience.examples:
            self._seen += 1
            if len(self._memory) < self.memory_size:
                self._memory.append(example)
            else:
                position = generator.randrange(self._seen)
                if position < self.memory_size:
                    self._memory[position] = example

    def state_dict(self) -> dict[str, Tensor]:
        """The memory: all tokens in a row, their loss mask, and the lengths."""
        return {
            "input_ids": torch.tensor(
                [t for e in self._memory for t in e.input_ids], dtype=torch.int32
            ),
            "supervised": torch.tensor(
                [s for e in self._memory for s in e.supervised], dtype=torch.bool
            ),
            "lengths": torch.tensor([len(e) for e in self._memory], dtype=torch.int32),
            "seen": torch.tensor(self._seen),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up the memory."""
        lengths = state["lengths"].tolist()
        ids = state["input_ids"].split(lengths) if lengths else ()
        masks = state["supervised"].split(lengths) if lengths else ()
        self._memory = [
            EncodedExample(tuple(i.tolist()), tuple(m.tolist()))
            for i, m in zip(ids, masks, strict=True)
        ]
        self._seen = int(state["seen"])

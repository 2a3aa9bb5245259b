"""Half fine-tuning: each experience trains another half of the parameters."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from epi_bench import (
    Experience,
    Strategy,
    TradeOff,
    TrainingSpec,
    UserError,
    block_number,
    frozen_share,
    register_strategy,
    trained_parameters,
)


@register_strategy("hft")
class HalfFineTuning(Strategy):
    """In each experience a random half of the blocks' matrices is trained, the rest is frozen.

    Drawn in each category of matrices of a block, so that every block is trained (category level
    of Hui et al. 2025, arXiv 2404.18466): of ``n`` attention matrices a share, of the feed-forward
    matrices a share, where a share of a block is no whole number more in some blocks and less in
    others, of the normalisation weights and biases a share. Embeddings and output head are always
    trained. What is frozen has no gradient, so it costs no optimizer state and nothing moves it.

    Matrices are counted, not weights: where keys and values are narrow, another share of the
    weights is frozen than of the matrices; the diagnostics report it.

    Args:
        share: Of the matrices that is trained, in (0, 1]; 1 is full fine-tuning.
    """

    family = "mask"
    needs = ("boundaries",)
    bytes_per_parameter = "0"
    trade_off = TradeOff("share", (0.9, 0.7, 0.5, 0.3, 0.1))
    evidence = (
        "Its authors report better general scores than full fine-tuning for LLaMA-2-7B, and less "
        "forgetting on TRACE."
    )

    def __init__(self, share: float = 0.5) -> None:
        if not 0 < share <= 1:
            raise UserError(f"hft: share={share} must lie in (0, 1]")
        self.share = share
        self._trained: dict[str, bool] = {}

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """Each experience needs an optimizer of its own: it trains other parameters."""
        if not training.fresh_optimizer and len(steps) > 1:
            raise UserError(
                "hft trains other parameters in each experience, and an optimizer that is kept "
                "knows the first ones alone: set fresh_optimizer to true",
                setting="training.fresh_optimizer",
            )
        return ()

    def begin_experience(self, experience: Experience) -> None:
        """Draw what is trained."""
        parameters = dict(self.context.model.named_parameters())
        if not self._trained:  # what is frozen from the beginning, under an adapter, stays so
            self._trained = dict.fromkeys(trained_parameters(self.context.model), True)
        trainable = [name for name in self._trained if block_number(name) is not None]
        generator = self.context.generator(f"half fine-tuning {experience.index}")
        chosen = draw_trained(
            {name: parameters[name].dim() for name in trainable}, self.share, generator
        )
        self._set({name: name in chosen for name in trainable})

    def state_dict(self) -> dict[str, Tensor]:
        """Which parameters are trained now."""
        return {name: torch.tensor(trained) for name, trained in self._trained.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Train and freeze the same ones."""
        self._set({name: bool(trained) for name, trained in state.items()})

    def state_bytes(self) -> int:
        """Nothing is kept but names."""
        return 0

    def diagnostics(self) -> dict[str, float]:
        """The share of the weights that is held still."""
        return {"achieved_ratio": frozen_share(self.context.model, self._trained)}

    def _set(self, trained: Mapping[str, bool]) -> None:
        self._trained |= trained
        for name, parameter in self.context.model.named_parameters():
            if name in trained:
                parameter.requires_grad_(trained[name])


def draw_trained(dimensions: Mapping[str, int], share: float, generator: random.Random) -> set[str]:
    """The parameters of the blocks that are trained.

    Args:
        dimensions: Of each parameter of the blocks, by its name.
        share: Of each category.
        generator: Of the draw.
    """
    categories: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, count in dimensions.items():
        block = block_number(name)
        assert block is not None  # noqa: S101  (they are of the blocks)
        categories[_category(name, count)][block].append(name)
    chosen: set[str] = set()
    for blocks in categories.values():
        wanted = round(share * sum(map(len, blocks.values())))
        base = {block: int(share * len(names)) for block, names in blocks.items()}
        more = wanted - sum(base.values())
        for block in generator.sample(sorted(blocks), min(more, len(blocks))):
            base[block] += 1
        for block, names in blocks.items():
            chosen.update(generator.sample(names, base[block]))
    return chosen


def _category(name: str, dimensions: int) -> str:
    if dimensions < 2:
        return "vectors"
    return "attention" if "attn" in name or "attention" in name else "feed-forward"

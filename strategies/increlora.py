"""IncreLoRA: low-rank updates that grow where they are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from epi_bench import (
    LowRankStrategy,
    PartialStep,
    Step,
    TradeOff,
    TrainingSpec,
    UserError,
    register_strategy,
    update_factors,
)

AVERAGE = 0.85
"""Decay of the averages of importance and of its uncertainty, as in the paper."""

MOST = 4
"""Highest rank of a layer, in units of the mean rank at the end."""


@register_strategy("increlora")
class IncreLoRA(LowRankStrategy):
    """Low-rank updates begin with rank 1, and grow in the layers where that matters most.

    Incremental parameter allocation (Zhang et al. 2023, arXiv 2308.12043); it has nothing to do
    with ``inc_lora``. At each step a layer's importance ``I`` is the mean of ``|A (.) g_A|`` plus
    that of ``|B (.) g_B|``, and its score the product of two running averages, of ``I`` and of
    ``|I - average|``. After ``warmup`` steps and every ``interval`` from then on the ``layers``
    layers with the highest scores gain a rank, until the mean rank is ``rank``. No layer gets more
    than four times that.

    The ranks to come are there from the beginning and held still, ``A`` at its first values and
    ``B`` at zero, with no gradient. So no shape changes, a run goes on exactly where it stopped,
    and a rank that is added begins with fresh moments; its steps grow to their full size over
    ``interval`` steps.

    The authors train ``B diag(e) A`` with a penalty that keeps the factors orthogonal, and measure
    importance on the product; here it is measured on the two factors that there are.

    Args:
        rank: Mean rank of the layers at the end, at least 1.
        alpha: Scale of the update; it is multiplied by ``alpha / rank`` whatever a layer's rank.
        dropout: Dropout on the adapter's input, in [0, 1).
        target_modules: As for ``lora``; linear layers only.
        learning_rate_factor: The run's learning rate is multiplied by it.
        warmup: Optimizer steps before the first addition, at least 1.
        interval: Optimizer steps between two additions, at least 1.
        layers: How many layers gain a rank at a time, at least 1.
    """

    bytes_per_parameter = "12 / width ** 2"
    trade_off = TradeOff("rank", (16, 8, 4, 2))
    evidence = "Its authors report more than a fixed rank gives with as many parameters."

    def __init__(
        self,
        rank: int = 4,
        alpha: float = 8.0,
        dropout: float = 0.0,
        target_modules: str = "all-linear",
        learning_rate_factor: float = 1.0,
        warmup: int = 20,
        interval: int = 10,
        layers: int = 8,
    ) -> None:
        for option, value in (("warmup", warmup), ("interval", interval), ("layers", layers)):
            if value < 1:
                raise UserError(f"increlora: {option}={value} must be at least 1")
        super().__init__(rank * MOST, alpha * MOST, dropout, target_modules, learning_rate_factor)
        self.mean_rank = rank
        self.warmup = warmup
        self.interval = interval
        self.layers = layers
        self._ranks = torch.zeros(0, dtype=torch.int32)
        self._grown = torch.zeros(0, dtype=torch.int32)
        self._importance = torch.zeros(0)
        self._uncertainty = torch.zeros(0)
        self._step: PartialStep | None = None

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """Whether there is time to grow at all."""
        if self.mean_rank > 1 and sum(steps) < self.warmup:
            return [
                f"increlora adds no rank: its warm-up of {self.warmup} steps is longer than the "
                f"run of {sum(steps)}; lower its option warmup"
            ]
        return ()

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Wrap the model; every layer begins with one rank."""
        self.refuse_embeddings(model, "has other factors than a linear layer")
        count = len(self.adapter.layers_to_adapt(model))
        self._ranks = torch.ones(count, dtype=torch.int32)
        self._grown = torch.zeros(count, dtype=torch.int32)
        self._importance, self._uncertainty = torch.zeros(count), torch.zeros(count)
        return super().prepare_model(model)

    @torch.no_grad()
    def gradients_ready(self, step: Step) -> None:
        """Measure importance; leave the ranks to come without a gradient."""
        found, factors = [], {}
        for number, (name, layer) in enumerate(self.adapted_layers.items()):
            down, up = update_factors(layer)
            rank = int(self._ranks[number])
            sizes = []
            for factor in (down, up):
                if factor.grad is not None:
                    by_rank = [factor, factor.grad] if factor is down else [up.T, factor.grad.T]
                    weights, gradients = by_rank
                    gradients[rank:] = 0.0
                    sizes.append((weights[:rank] * gradients[:rank]).abs().mean())
            found.append(torch.stack(sizes).sum().cpu() if sizes else torch.tensor(0.0))
            factors[f"A {name}"], factors[f"B {name}"] = down, up
        importance = torch.stack(found).float()
        self._importance = torch.lerp(importance, self._importance, AVERAGE)
        away = (importance - self._importance).abs()
        self._uncertainty = torch.lerp(away, self._uncertainty, AVERAGE)
        self._step = PartialStep(factors)
        self._step.take()

    def parameters_updated(self, step: Step) -> None:
        """Undo what happened to the ranks to come, and let layers grow if it is time."""
        if self._step is None:
            return
        numbers = {name: number for number, name in enumerate(self.adapted_layers)}

        def share_of(name: str, moved: Tensor) -> Tensor:
            kind, _, layer = name.partition(" ")
            size = moved.shape[0 if kind == "A" else 1]
            weights = self._shares(numbers[layer], size, step.number).to(moved.device)
            return moved * (weights[:, None] if kind == "A" else weights)

        self._step.change(share_of, self.context.torch_generator("rounding"))
        self._step = None
        if step.number >= self.warmup and (step.number - self.warmup) % self.interval == 0:
            self._grow(step.number)

    def diagnostics(self) -> dict[str, float]:
        """Mean and largest rank of the layers."""
        if not len(self._ranks):
            return {}
        ranks = self._ranks.float()
        return {"mean_rank": float(ranks.mean()), "largest_rank": float(ranks.max())}

    def state_dict(self) -> dict[str, Tensor]:
        """Each layer's rank, when it grew last, and the averages."""
        return {
            "ranks": self._ranks,
            "grown": self._grown,
            "importance": self._importance,
            "uncertainty": self._uncertainty,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take all of it up."""
        self._ranks, self._grown = state["ranks"].clone(), state["grown"].clone()
        self._importance = state["importance"].clone()
        self._uncertainty = state["uncertainty"].clone()

    def _shares(self, number: int, size: int, step: int) -> Tensor:
        """How much of its step each rank of a layer makes: all, none, or more and more."""
        rank, grown = int(self._ranks[number]), int(self._grown[number])
        shares = (torch.arange(size) < rank).float()
        if grown:
            shares[rank - 1] = min(1.0, (step - grown) / self.interval)
        return shares

    def _grow(self, step: int) -> None:
        """Give the layers with the highest scores a rank more."""
        left = self.mean_rank * len(self._ranks) - int(self._ranks.sum())
        scores = self._importance * self._uncertainty
        scores[self._ranks >= self.mean_rank * MOST] = -1.0
        for number in scores.argsort(descending=True, stable=True)[: min(self.layers, left)]:
            if scores[number] >= 0:
                self._ranks[number] += 1
                self._grown[number] = step

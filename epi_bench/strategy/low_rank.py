"""Strategies that bring low-rank adapters of their own."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from epi_bench.errors import UserError
from epi_bench.strategy.adapted_weights import adapted_layers, restart_updates
from epi_bench.strategy.low_rank_adapter import LowRankAdapter
from epi_bench.strategy.strategy import Strategy


class LowRankStrategy(Strategy):
    """Base of the strategies that train low-rank adapters (Hu et al. 2021, arXiv 2106.09685).

    Each adapted layer computes ``W x + (alpha / rank) B A x`` with ``W`` frozen. The adapter is
    merged into the weights at the end, and checked: the merged model is the trained one.

    Args:
        rank: Rank of the update, at least 1.
        alpha: Scale of the update.
        dropout: Dropout on the adapter's input, in [0, 1).
        target_modules: Names of the layers to adapt, or the ends of their paths, separated by
            commas; ``all-linear`` adapts every linear layer but the output head.
        learning_rate_factor: The run's learning rate is multiplied by it, above 0.
        config: Further settings of ``peft.LoraConfig``.

    Attributes:
        adapter: Wraps the model, and merges what was trained.

    Example:
        >>> class Narrow(LowRankStrategy):
        ...     def __init__(self, rank: int = 2) -> None:
        ...         super().__init__(rank, 4.0, 0.0, "q_proj,v_proj", 1.0)
        >>> Narrow().target_modules
        ('q_proj', 'v_proj')
    """

    family = "adapter"

    refuses_adapter = "brings an adapter of its own"

    def __init__(
        self,
        rank: int,
        alpha: float,
        dropout: float,
        target_modules: str,
        learning_rate_factor: float,
        **config: Any,
    ) -> None:
        self.adapter = LowRankAdapter(self.name, rank, alpha, dropout, target_modules, **config)
        if learning_rate_factor <= 0:
            raise UserError(
                f"{self.name}: learning_rate_factor={learning_rate_factor} must be above 0"
            )
        self.learning_rate_factor = learning_rate_factor

    @property
    def rank(self) -> int:
        """Rank of the update."""
        return self.adapter.rank

    @property
    def target_modules(self) -> tuple[str, ...]:
        """Names of the layers to adapt, or the ends of their paths."""
        return self.adapter.target_modules

    def check_model(self, model: nn.Module) -> None:
        """Refuse names that fit no layer, and layers whose merge would change another one."""
        self.adapter.check(model)

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Wrap the model; only the adapter stays trainable."""
        return self.adapter.wrap(model)

    def as_finished(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        """Merge the adapter for the time of scoring, where the merge is rounded."""
        return self.adapter.as_merged(model)

    def finalize_model(self, model: nn.Module) -> nn.Module:
        """Merge the adapter into the weights.

        Raises:
            TrainingFailedError: If the merged model is not the trained one.
        """
        return self.adapter.merge(model)

    def refuse_embeddings(self, model: nn.Module, reason: str) -> None:
        """Refuse to adapt an embedding: for strategies that work on the factors of linear layers.

        Args:
            model: As it was loaded.
            reason: What is wrong with an embedding, as the end of "which ...".

        Raises:
            UserError: If one is among the layers to adapt.
        """
        for name in sorted(self.adapter.layers_to_adapt(model)):
            if isinstance(model.get_submodule(name), nn.Embedding):
                raise UserError(
                    f"{self.name}: target_modules adapts the embedding {name!r}, which {reason}: "
                    "leave it out"
                )

    @property
    def adapted_layers(self) -> dict[str, Any]:
        """The adapted layers of the model that is trained, by their path; ``LoraLayer`` of peft."""
        return adapted_layers(self.context.model)

    @torch.no_grad()
    def merge_and_restart(self, purpose: str) -> None:
        """Add the adapter to the weights, and begin a new one that changes nothing yet.

        Args:
            purpose: Names the draw of the new adapter's first values.
        """
        for layer in self.adapted_layers.values():
            weight = layer.get_base_layer().weight
            (adapter,) = layer.active_adapters
            weight.copy_(weight.float() + layer.get_delta_weight(adapter).float())
        restart_updates(self.context.model, self.context.torch_generator(purpose))

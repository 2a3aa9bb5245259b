"""Low-rank adapters whose ranks follow what training shows: AdaLoRA, made by peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from epi_bench.errors import UserError
from epi_bench.isolation.saved_state import state_part
from epi_bench.strategy.adapted_weights import adapted_layers
from epi_bench.strategy.low_rank_adapter import LowRankAdapter

MORE_AT_FIRST = 1.5
"""Rank of each update at first, in units of the mean rank that is left at the end."""

FIRST, LAST = 0.1, 0.2
"""Shares of the run's steps before the first rank is taken away, and after the last."""

ALLOCATIONS = 100
"""About how many times in a run ranks are taken away, at most at every step."""

ORTHOGONALITY = 0.5
"""Weight of the penalty that keeps the two factors' columns orthogonal, peft's default."""

AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""What peft's allocator keeps of each weight of the adapter."""


class RankAllocation:
    """AdaLoRA (Zhang et al. 2023, arXiv 2303.10512) in a training loop that is not peft's.

    Each update is ``P diag(e) Q`` in place of ``B A``. All begin with one and a half times the
    rank; from a tenth of the run's steps on the triplets with the smallest importance in the whole
    model lose their ``e``, until in the last fifth ``rank`` are left on average.

    peft adds its penalty on ``P^T P - 1`` and ``Q Q^T - 1`` to a loss that it computes itself, and
    takes ranks away when it is told to; both are done here.

    Args:
        adapter: Says rank, scale, dropout and layers.
    """

    def __init__(self, adapter: LowRankAdapter) -> None:
        self._adapter = adapter

    def wrap(self, model: nn.Module, total_steps: int) -> nn.Module:
        """Put the adapter on a model.

        Args:
            model: As it was loaded.
            total_steps: Optimizer steps of the whole run, at least 3.

        Raises:
            UserError: If there are too few, or their number is not known (0).
        """
        if total_steps < 3:
            known = f"{total_steps} steps are too few" if total_steps else "it is not known here"
            raise UserError(
                f"{self._adapter.owner}: variant=adalora takes ranks away by the number of steps "
                f"of the whole run, and {known}: choose another variant"
            )
        from peft import AdaLoraConfig

        first = max(self._adapter.rank + 1, round(MORE_AT_FIRST * self._adapter.rank))

        def configuration(layers: list[str]) -> Any:
            return AdaLoraConfig(
                init_r=first,
                target_r=self._adapter.rank,
                lora_alpha=self._adapter.alpha,  # type: ignore[arg-type]
                lora_dropout=self._adapter.dropout,
                target_modules=layers,
                task_type="CAUSAL_LM",
                total_step=total_steps,
                tinit=int(FIRST * total_steps),
                tfinal=max(1, int(LAST * total_steps)),
                deltaT=max(1, total_steps // ALLOCATIONS),
                orth_reg_weight=ORTHOGONALITY,
            )

        return self._adapter.wrap(model, configuration)

    def penalty(self, model: nn.Module) -> Tensor:
        """``weight * mean over the factors of ||P^T P - 1||``, as peft adds it to its own loss."""
        distances = []
        for layer in adapted_layers(model).values():
            (adapter,) = layer.active_adapters
            for factor in (layer.lora_A[adapter], layer.lora_B[adapter].T):
                one = torch.eye(len(factor), device=factor.device)
                distances.append(torch.linalg.matrix_norm(factor @ factor.T - one))
        return ORTHOGONALITY * torch.stack(distances).mean()

    def step_done(self, model: Any, number: int) -> None:
        """Measure importance and take ranks away; call after a step, with its gradients there.

        Args:
            model: As :meth:`wrap` made it.
            number: Of the step, from 1 over the whole run.
        """
        config = _config(model)
        over = number > config.total_step - config.tfinal
        if not over or config.rank_pattern is not None:  # the deciding step may have been left out
            model.base_model.update_and_allocate(number)

    def ranks(self, model: nn.Module) -> dict[str, int]:
        """How many triplets of each layer still count."""
        found = {}
        for path, layer in adapted_layers(model).items():
            (adapter,) = layer.active_adapters
            found[path] = int(layer.lora_E[adapter].count_nonzero())
        return found

    def state_dict(self, model: Any) -> dict[str, Tensor]:
        """Importances, and which triplets are left."""
        allocator, pattern = model.base_model.rankallocator, _config(model).rank_pattern or {}
        state = {
            f"{kind}.{name}": tensor
            for kind in AVERAGES
            for name, tensor in getattr(allocator, kind).items()
        }
        return state | {f"pattern.{name}": torch.tensor(kept) for name, kept in pattern.items()}

    def load_state_dict(self, model: Any, state: Mapping[str, Tensor]) -> None:
        """Take both up."""
        allocator = model.base_model.rankallocator
        for kind in AVERAGES:
            found = {name: t.clone() for name, t in state_part(state, f"{kind}.").items()}
            setattr(allocator, kind, found)
        pattern = {name: kept.tolist() for name, kept in state_part(state, "pattern.").items()}
        _config(model).rank_pattern = pattern or None


def _config(model: Any) -> Any:
    return model.peft_config[model.base_model.trainable_adapter_name]

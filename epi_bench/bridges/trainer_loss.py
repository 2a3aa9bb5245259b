"""The loss of a strategy in a Trainer: its penalties within, and the tokens' loss in the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from epi_bench.bridges.optimizer_steps import bare
from epi_bench.bridges.strategy_run import overrides
from epi_bench.bridges.trainer_data import StrategyData
from epi_bench.model.losses import training_loss

if TYPE_CHECKING:
    from torch import Tensor, nn

PREFIX = "strategy_"
"""Begins the names of a strategy's statistics in the log."""


class StrategyLoss(StrategyData):
    """The part of a :class:`epi_bench.bridges.StrategyTrainer` that computes the loss of a step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._within_step = False
        self._losses: list[Tensor] = []
        self._penalties: list[float] = []
        super().__init__(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As the Trainer's; after the last micro-batch of a step its gradients are complete."""
        trainer: Any = self
        self._within_step = True
        try:
            super().training_step(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._within_step = False
        loss = self._losses[-1]
        if trainer.accelerator.sync_gradients:
            total = torch.stack(self._losses).sum()
            self._losses = []
            if trainer.accelerator.num_processes > 1:
                total = trainer.accelerator.reduce(total, reduction="mean")
            if not self._run.gradients_ready(bare(trainer.optimizer), total):
                self._run.context.model.zero_grad()  # the optimizer moves nothing then
        return loss  # without the penalty, which the log has beside it

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The Trainer's loss; in training the strategy's penalty is added."""
        if not self._within_step:
            return super().compute_loss(  # type: ignore[misc]
                model,
                inputs,
                return_outputs=return_outputs,
                num_items_in_batch=num_items_in_batch,
            )
        trainer: Any = self
        share = 1 if self._is_scaled(num_items_in_batch) else self._micro_batches_of_step()
        outputs = None
        if self._sees_logits():
            loss, told = self._loss_with_hooks(model, inputs, num_items_in_batch)
        else:
            loss = super().compute_loss(  # type: ignore[misc]
                model,
                inputs,
                return_outputs=return_outputs,
                num_items_in_batch=num_items_in_batch,
            )
            if return_outputs:
                loss, outputs = loss
            told = loss.detach()
        self._losses.append(told / share)
        penalty = self._run.penalty() if trainer.accelerator.sync_gradients else None
        if penalty is not None:
            self._penalties.append(float(penalty.detach()))
            loss = loss + penalty.to(loss.device) * share
        return (loss, outputs) if return_outputs else loss

    def _loss_with_hooks(
        self, model: nn.Module, inputs: Mapping[str, Any], items: Tensor | int | None
    ) -> tuple[Tensor, Tensor]:
        """The loss from logits of this package's own forward pass; TRL's own has none."""
        trainer: Any = self
        batch = {"attention_mask": torch.ones_like(inputs["input_ids"]), **inputs}
        objective, summed = training_loss(model, batch, self._run.strategy)
        if items is None:
            divisor: Any = (batch["labels"][:, 1:] >= 0).sum().clamp(min=1)
        else:
            divisor = items
            if trainer.args.average_tokens_across_devices:
                divisor = items / trainer.accelerator.num_processes
        return objective / divisor, summed.detach() / divisor

    def _sees_logits(self) -> bool:
        """Whether the loss must be computed from logits that the strategy's hooks are shown."""
        return self._draws_otherwise or any(
            overrides(self._run.strategy, hook) for hook in ("token_weights", "batch_penalty")
        )

    def _is_scaled(self, items: Tensor | int | None) -> bool:
        """Whether the losses of a step's micro-batches sum up to the step's, as they are."""
        trainer: Any = self
        if trainer.loss_is_scaled_for_ga is not None:
            return bool(trainer.loss_is_scaled_for_ga)
        return (trainer.model_accepts_loss_kwargs and items is not None) or (
            trainer.compute_loss_func is not None
        )

    def _micro_batches_of_step(self) -> int:
        return int(self.current_gradient_accumulation_steps)  # type: ignore[attr-defined]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the Trainer's; the entry of a training loss gets the strategy's statistics."""
        if "loss" in logs:
            statistics = self._run.statistics()
            if self._penalties:
                statistics["penalty"] = sum(self._penalties) / len(self._penalties)
                self._penalties = []
            logs.update({f"{PREFIX}{name}": value for name, value in statistics.items()})
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

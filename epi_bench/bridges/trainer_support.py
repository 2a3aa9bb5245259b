"""What a strategy can work with in a Trainer, and what is read off one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.trainer_utils import get_last_checkpoint

from epi_bench.bridges.strategy_run import overrides, refuse
from epi_bench.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from epi_bench.strategy.strategy import Strategy


class ChosenExamples(torch.utils.data.Dataset[Any]):
    """Examples as a data set of torch."""

    def __init__(self, examples: Sequence[Any]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, position: int) -> Any:
        return self._examples[position]


def checkpoint_folder(asked: str | bool | None, output: str | None) -> Path | None:
    """The folder that ``train(resume_from_checkpoint=asked)`` means.

    Raises:
        UserError: If the last one of an output folder is asked for and there is none.
    """
    if not asked:
        return None
    if isinstance(asked, str | Path):
        return Path(asked)
    last = get_last_checkpoint(output) if output and Path(output).is_dir() else None
    if last is None:
        raise UserError(f"there is no checkpoint in {output}: name the folder to resume from")
    return Path(last)


def pad_token(trainer: Any) -> int:
    """What short rows are filled with; it carries no loss."""
    sources = (getattr(trainer, "processing_class", None), getattr(trainer.model, "config", None))
    found = (getattr(source, "pad_token_id", None) for source in sources)
    return next((int(token) for token in found if token is not None), 0)


def refuse_what_is_not_supported(trainer: Any, strategy: Strategy) -> None:
    """Refuse a Trainer in which a strategy would not do what it should.

    Raises:
        UserError: With what to do instead.
    """
    args = trainer.args
    for is_so, reason, remedy in (
        (trainer.model_init is not None, "keeps one model", "give model instead of model_init"),
        (args.fp16, "needs gradients that are not scaled", "train in bf16 or float32"),
        (args.auto_find_batch_size, "cannot go back to the beginning", "give a batch size"),
        (args.n_gpu > 1, "trains one model", "start one process for each GPU (torchrun)"),
        (
            trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled,
            "is not tested with sharded weights",
            "train without FSDP and DeepSpeed; EPICallback works with FSDP2",
        ),
        (
            overrides(strategy, "training_examples") and trainer.compute_loss_func is not None,
            "computes its own loss",
            "leave compute_loss_func out",
        ),
        (
            trainer.optimizer is not None and strategy.learning_rate_factor != 1,
            "changes the learning rate, and the optimizer that you give has its own",
            "leave optimizers out",
        ),
    ):
        if is_so:
            raise refuse(strategy, reason, remedy)


def refuse_an_optimizer_of_other_weights(
    trainer: Any, strategy: Strategy, prepared: nn.Module, known: Collection[int]
) -> None:
    """Refuse an optimizer that was made before the strategy put new weights into the model.

    Args:
        trainer: Any.
        strategy: Has prepared the model.
        prepared: The model as it is trained.
        known: ``id`` of each parameter that there was before.

    Raises:
        UserError: If the optimizer that the Trainer was given would leave new weights untrained.
    """
    if trainer.optimizer is None:
        return
    stepped = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, parameter in prepared.named_parameters():
        if parameter.requires_grad and id(parameter) not in stepped | set(known):
            raise refuse(
                strategy,
                f"trains {name}, which the optimizer that you give does not know",
                "leave optimizers out",
            )

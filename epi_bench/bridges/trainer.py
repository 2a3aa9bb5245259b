"""EPI for ``transformers.Trainer`` and the trainers that build on it, such as TRL's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from epi_bench.bridges.protection import Protection
from epi_bench.errors import UserError
from epi_bench.isolation.normalisation import Normalisation

STATE_FILE = "epi_protection.safetensors"
"""Name of the protection's state inside a checkpoint folder."""


class EPICallback(TrainerCallback):
    """Evolving Parameter Isolation (EPI, arXiv 2604.14010) for a Trainer, in one line::

        trainer = Trainer(..., callbacks=[EPICallback(ratio=0.3)])

    Works with ``transformers.Trainer`` and its subclasses (``trl.SFTTrainer``, ``DPOTrainer``).
    The protection begins with ``train()`` and ends with it. Its statistics join each log entry
    that has a training loss, with the prefix ``epi_`` (the reporting integrations that a Trainer
    adds by itself, such as TensorBoard, are called before callbacks and do not see them).

    Checkpoints get a file ``epi_protection.safetensors``; training that is resumed goes on exactly
    as if it had not been interrupted. A callback that is given to a second trainer of the same
    model goes on with its importance and mask: a stream of tasks, one trainer each.

    Args:
        ratio: Share of all trained weights that is protected, in [0, 1); 0 protects nothing.
        interval: Optimizer steps between two refreshes, at least 1.
        warmup: Optimizer steps before the first refresh, at least 0.
        beta: Decay of the importance, in [0, 1).
        normalisation: Of the importance within each tensor: ``min_max``, ``mean`` or ``rank``.
        resume_from: The checkpoint folder whose protection is taken up on resuming. Needed only
            if it lies neither in ``output_dir`` nor where ``TrainingArguments`` says: a Trainer
            does not tell its callbacks what ``train(resume_from_checkpoint=...)`` was given.
        **isolation: Further keyword arguments of :class:`epi_bench.Isolation`, such as
            ``importance="optimizer"``, which keeps nothing beside Adam's own second moment.

    Attributes:
        protection: The :class:`Protection`, from the beginning of training on, also afterwards.

    Raises:
        UserError: When training begins: if a value is out of range, or training is resumed from a
            checkpoint without a protection.
    """

    def __init__(
        self,
        ratio: float = 0.5,
        interval: int = 20,
        warmup: int = 20,
        beta: float = 0.999,
        normalisation: Normalisation = "mean",
        resume_from: str | Path | None = None,
        **isolation: Any,
    ) -> None:
        self._options: dict[str, Any] = {
            "ratio": ratio,
            "interval": interval,
            "warmup": warmup,
            "beta": beta,
            "normalisation": normalisation,
            **isolation,
        }
        self._resume_from = resume_from
        self.protection: Protection | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Protect; weights, optimizer and counts of a resumed training are loaded already."""
        if model is None or optimizer is None:
            raise UserError("EPICallback needs a Trainer that tells its model and optimizer")
        earlier, resumed = self.protection, state.global_step > 0
        if earlier is None or resumed or not earlier.trains(optimizer, model):
            if earlier is not None:
                earlier.remove()
            earlier = Protection(optimizer, model, **self._options)
        if resumed:
            earlier.load_state_dict(load_file(self._saved_state(args, state)))
        earlier.attach(optimizer)
        self.protection = earlier

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the statistics to the entry of a training loss."""
        if self.protection is None or not logs or "loss" not in logs:
            return
        statistics = {f"epi_{k}": v for k, v in self.protection.statistics().items()}
        logs.update(statistics)
        if state.log_history:
            state.log_history[-1].update(statistics)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the protection's state into the checkpoint that was just written."""
        folder = _checkpoint(args, state)
        # The trials of a hyperparameter search have folders of their own and are never resumed.
        if self.protection is None or not args.should_save or state.is_hyper_param_search:
            return
        # Clones, because safetensors refuses tensors that share memory or have other strides.
        tensors = {
            name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
            for name, tensor in self.protection.state_dict().items()
        }
        save_file(tensors, folder / STATE_FILE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the optimizer go."""
        if self.protection is not None:
            self.protection.remove()

    def _saved_state(self, args: TrainingArguments, state: TrainerState) -> Path:
        """The file to resume from."""
        folders = [_checkpoint(args, state)]
        if isinstance(args.resume_from_checkpoint, str):
            folders.insert(0, Path(args.resume_from_checkpoint))
        if self._resume_from is not None:
            folders = [Path(self._resume_from)]
        for folder in folders:
            if (folder / STATE_FILE).is_file():
                return folder / STATE_FILE
        raise UserError(
            f"training is resumed at step {state.global_step}, but {folders[0]} has no "
            f"{STATE_FILE}: give EPICallback(resume_from=...) the checkpoint folder, or resume "
            "from a checkpoint that was trained with EPICallback"
        )


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    """The folder of the present step's checkpoint."""
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"

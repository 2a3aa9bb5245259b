"""EPI for ``transformers.Trainer`` and the trainers that build on it, such as TRL's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from epi_bench.bridges.protection import Protection
from epi_bench.errors import UserError
from epi_bench.isolation.normalisation import Normalisation
from epi_bench.isolation.sharding import Processes

STATE_FILE = "epi_protection.safetensors"
"""Name of the protection's state inside a checkpoint folder."""

PART_FILE = "epi_protection-{part:05}-of-{parts:05}.safetensors"
"""Name of one process's part of it, counted from 1, where the parameters are sharded (FSDP2)."""


class EPICallback(TrainerCallback):
    """Evolving Parameter Isolation (EPI, arXiv 2604.14010) for a Trainer, in one line::

        trainer = Trainer(..., callbacks=[EPICallback(ratio=0.3)])

    Works with ``transformers.Trainer`` and its subclasses, such as ``trl.SFTTrainer``.
    The protection begins with ``train()`` and ends with it. Its statistics join each log entry
    that has a training loss, with the prefix ``epi_`` (the reporting integrations that a Trainer
    adds by itself, such as TensorBoard, are called before callbacks and do not see them).

    Checkpoints get a file ``epi_protection.safetensors``; training that is resumed goes on exactly
    as if it had not been interrupted, and a file that was saved beside other weights is refused.
    Where the parameters are sharded (FSDP2), each process writes its part. A callback that is given
    to a second trainer of the same model goes on with its importance and mask: a stream of tasks,
    one trainer each.

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
            checkpoint without a protection or with that of other weights.
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
            self._load(earlier, args, state)
        earlier.attach(optimizer)  # holds the present weights: the best may have been loaded back
        self.protection = earlier
        self._warn_of_warmup(earlier, state.max_steps - state.global_step)

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
        if self.protection is None or state.is_hyper_param_search:
            return
        processes = self.protection.isolation.processes
        if processes.count == 1 and not args.should_save:
            return
        # Clones, because safetensors refuses tensors that share memory or have other strides.
        tensors = {
            name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
            for name, tensor in self.protection.state_dict().items()
        }
        folder.mkdir(parents=True, exist_ok=True)  # this process may be ahead of the one that saves
        save_file(tensors, folder / _file_of(processes))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the optimizer go."""
        if self.protection is not None:
            self.protection.remove()

    def _warn_of_warmup(self, protection: Protection, steps: int) -> None:
        missing = protection.warmup - protection.steps
        if protection.ratio > 0 and not protection.refreshes and missing >= steps:
            warnings.warn(
                f"EPICallback protects nothing in this training: its warm-up has {missing} steps "
                f"to go, and the training {steps}; lower EPICallback(warmup=...)",
                stacklevel=2,
            )

    def _load(self, protection: Protection, args: TrainingArguments, state: TrainerState) -> None:
        path = self._saved_state(_file_of(protection.isolation.processes), args, state)
        try:
            protection.load_state_dict(load_file(path))
        except UserError as error:
            raise UserError(
                f"{path}: {error}. If training is resumed from another folder, name it: "
                "EPICallback(resume_from=...)"
            ) from error

    def _saved_state(self, file: str, args: TrainingArguments, state: TrainerState) -> Path:
        """The file to resume from."""
        folders = [_checkpoint(args, state)]
        if isinstance(args.resume_from_checkpoint, str):
            folders.insert(0, Path(args.resume_from_checkpoint))
        if self._resume_from is not None:
            folders = [Path(self._resume_from)]
        for folder in folders:
            if (folder / file).is_file():
                return folder / file
        others = sorted(path.name for path in folders[0].glob("epi_protection*.safetensors"))
        if others:
            raise UserError(
                f"{folders[0]} has {others[0]}, but this training needs {file}: resume with as "
                "many processes, sharded in the same way, as saved it"
            )
        raise UserError(
            f"training is resumed at step {state.global_step}, but {folders[0]} has no "
            f"{file}: give EPICallback(resume_from=...) the checkpoint folder, or resume "
            "from a checkpoint that was trained with EPICallback"
        )


def _file_of(processes: Processes) -> str:
    """The name of this process's file."""
    if processes.count == 1:
        return STATE_FILE
    return PART_FILE.format(part=processes.rank + 1, parts=processes.count)


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    """The folder of the present step's checkpoint."""
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"

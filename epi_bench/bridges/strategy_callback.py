"""What a strategy in a Trainer hears of by a callback: begin, step, checkpoint, end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from epi_bench.bridges.optimizer_steps import bare
from epi_bench.bridges.strategy_files import StrategyFiles, save_strategy_files


class StrategyCallback(TrainerCallback):
    """Tells the strategy what a Trainer tells only callbacks.

    Args:
        trainer: The :class:`epi_bench.bridges.strategy_trainer.StrategyTrainer`.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Weights and optimizer of a resumed training are loaded; its strategy is not."""
        trainer = self._trainer
        trainer._run.context.optimizer = bare(kwargs["optimizer"])
        if trainer._files is not None:
            trainer._files.load(trainer._weights)
            trainer._files = None

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The optimizer has stepped; gradients are still there."""
        self._trainer._run.parameters_updated()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The strategy may have ended the experience."""
        if self._trainer._run.is_over:
            control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The checkpoint's folder is complete."""
        if args.should_save:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            save_strategy_files(self._trainer._run, folder, self._trainer._weights)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """If the best weights have been loaded back, so is the strategy's state beside them."""
        best = state.best_model_checkpoint
        if args.load_best_model_at_end and best is not None:
            run = self._trainer._run
            files = StrategyFiles(Path(best), run)
            examples: Sequence[Any] = run.experience.examples if run.experience else ()
            files.place(examples, self._trainer._training(1))
            files.load(self._trainer._weights)

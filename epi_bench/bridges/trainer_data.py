"""What a strategy in a Trainer trains on: the data set, or what it chose of it and beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from epi_bench.bridges.experience_rows import EncodedRows
from epi_bench.bridges.strategy_run import refuse
from epi_bench.bridges.trainer_support import ChosenExamples
from epi_bench.errors import UserError
from epi_bench.model.batching import collate

if TYPE_CHECKING:
    from epi_bench.bridges.strategy_run import StrategyRun


class StrategyData:
    """The part of a :class:`epi_bench.bridges.StrategyTrainer` that gives batches."""

    _run: StrategyRun

    def _own_rows(self) -> tuple[EncodedRows, int]:
        """The training data as the strategy knows examples, and how many steps are made on it."""
        trainer: Any = self
        loader = super().get_train_dataloader()  # type: ignore[misc]
        steps = trainer.set_initial_training_values(trainer.args, loader)[-1]
        rows, join = loader.dataset, loader.collate_fn
        if not hasattr(rows, "__len__"):
            raise refuse(
                self._run.strategy,
                "needs a data set with a length and rows by position",
                "make it a datasets.Dataset or a list",
            )
        if not len(rows):
            raise UserError("the training data has no rows")
        return EncodedRows(rows, lambda row: join([row])), steps

    @property
    def _draws_otherwise(self) -> bool:
        """Whether the strategy chose other examples than those of the data set."""
        experience = self._run.experience
        return experience is not None and self._run.drawn is not experience.examples

    def get_train_dataloader(self) -> Any:
        """Batches of what the strategy chose, or of the data set itself."""
        if not self._draws_otherwise:
            return super().get_train_dataloader()  # type: ignore[misc]
        trainer: Any = self
        own = trainer.train_dataset, trainer.data_collator, trainer.args.max_steps
        pad = self._run.context.pad_token_id
        try:
            trainer.train_dataset = ChosenExamples(self._run.drawn)
            trainer.data_collator = lambda examples: collate(examples, pad)
            return super().get_train_dataloader()  # type: ignore[misc]
        finally:
            trainer.train_dataset, trainer.data_collator, _ = own

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        """As the Trainer's, but an experience lasts as long as its own examples say."""
        experience = self._run.experience
        if experience is None or not self._draws_otherwise or args.max_steps > 0:
            return super().set_initial_training_values(args, dataloader)  # type: ignore[misc]
        try:
            args.max_steps = experience.steps
            return super().set_initial_training_values(args, dataloader)  # type: ignore[misc]
        finally:
            args.max_steps = -1

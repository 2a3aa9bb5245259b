"""Any strategy in ``transformers.Trainer`` and the trainers that build on it, such as TRL's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch

from epi_bench.bridges.experience_rows import EncodedRows
from epi_bench.bridges.optimizer_steps import bare
from epi_bench.bridges.strategy_callback import StrategyCallback
from epi_bench.bridges.strategy_files import StrategyFiles, save_strategy_files
from epi_bench.bridges.strategy_run import StrategyRun, known_training, overrides, refuse
from epi_bench.bridges.trainer_support import (
    ChosenExamples,
    checkpoint_folder,
    pad_token,
    refuse_what_is_not_supported,
)
from epi_bench.errors import UserError
from epi_bench.model.adapted import is_adapted
from epi_bench.model.batching import collate
from epi_bench.model.losses import training_loss
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.training.loop_state import ModelState

if TYPE_CHECKING:
    from torch import Tensor, nn

    from epi_bench.strategy.strategy import Strategy

TrainerType = TypeVar("TrainerType", bound=type)

PREFIX = "strategy_"
"""Begins the names of a strategy's statistics in the log."""


def with_strategy(
    trainer: TrainerType, strategy: str | type[Strategy], /, **options: Any
) -> TrainerType:
    """A Trainer class that trains by a strategy of this package::

        trainer = with_strategy(Trainer, "epi_similarity", penalty=100)(
            model=model, args=arguments, train_dataset=rows
        )
        trainer.train()

    The class is a subclass of the one given and takes its arguments. The strategy's hooks are
    called where the training loop of this package calls them: ``penalty`` within the loss of a
    step's last micro-batch, ``gradients_ready`` before clipping, ``parameters_updated`` right after
    the optimizer's step. A step whose gradients are not finite is left out.

    Each ``train()`` is an experience with an optimizer of its own, unless ``begin_experience`` and
    ``end_experience`` say otherwise. See :class:`StrategyTrainer` for these and what else there is.

    Args:
        trainer: ``transformers.Trainer``, ``trl.SFTTrainer`` or another subclass of the first.
        strategy: A registered name, as ``epi-bench strategies list`` shows them, or a class.
        options: The strategy's options.

    Raises:
        UserError: If the strategy or an option is unknown or wrong.
    """
    StrategyRun(strategy, options)  # a wrong option is told here, not when the trainer is made
    name = strategy if isinstance(strategy, str) else strategy.__name__
    members = {"strategy_and_options": (strategy, options), "__doc__": trainer.__doc__}
    return type(f"{trainer.__name__}With_{name}", (StrategyTrainer, trainer), members)  # type: ignore[return-value]


class StrategyTrainer:
    """What :func:`with_strategy` adds to a Trainer.

    ``train(resume_from_checkpoint=...)`` takes the strategy's state up from the checkpoint's files
    ``strategy.safetensors`` and ``strategy.json``, and ``load_best_model_at_end`` gives back the
    state that belongs to the best weights. Evaluation scores the model as it would be finished now.
    The log, and with it every tracker, gets the strategy's statistics with the prefix
    ``strategy_``; its ``loss`` stays that of the tokens, and ``strategy_penalty`` stands beside it.

    Attributes:
        strategy: The strategy, to look at.
    """

    strategy_and_options: ClassVar[tuple[Any, Mapping[str, Any]]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._run = StrategyRun(*self.strategy_and_options)
        super().__init__(*args, **kwargs)
        trainer: Any = self
        refuse_what_is_not_supported(trainer, self.strategy)
        self._has_own_optimizer = trainer.optimizer is None
        self._is_finished = self._is_explicit = False
        self._pending: str | None = None
        self._files: StrategyFiles | None = None
        self._within_step = False
        self._losses: list[Tensor] = []
        self._penalties: list[float] = []
        model = trainer.model
        prepared = self._run.prepare(
            model,
            seed=trainer.args.seed,
            device=trainer.args.device,
            pad_token_id=pad_token(trainer),
        )
        # The Trainer's checkpoints hold all weights of a model, but an adapter's alone of peft's.
        is_whole = prepared is model and not is_adapted(model)
        self._weights = None if is_whole else ModelState(prepared)
        trainer.model = trainer.model_wrapped = prepared
        trainer.add_callback(StrategyCallback(self))

    @property
    def strategy(self) -> Strategy:
        """The strategy, to look at."""
        return self._run.strategy

    def begin_experience(self, name: str, dataset: Any = None) -> None:
        """Begin an experience of the stream; it lasts until :meth:`end_experience`.

        Not needed where each ``train()`` is one. The strategy hears of it with the next
        ``train()``, when the number of steps is known.

        Args:
            name: For messages and checkpoints.
            dataset: What is trained from now on; the present one if left out.

        Raises:
            UserError: If another experience has not ended.
        """
        if self._run.experience is not None or self._pending is not None:
            open_now = self._pending or getattr(self._run.experience, "name", "")
            raise UserError(f"experience {open_now!r} has not ended: call end_experience() first")
        self._refuse_if_finished()
        if dataset is not None:
            trainer: Any = self
            if hasattr(trainer, "_prepare_dataset"):  # TRL's trainers tokenize their data sets
                dataset = trainer._prepare_dataset(
                    dataset,
                    trainer.processing_class,
                    trainer.args,
                    trainer.args.packing,
                    getattr(trainer, "_formatting_func", None),
                    "train",
                )
            trainer.train_dataset = dataset
        self._pending = name

    def end_experience(self) -> None:
        """End the experience that :meth:`begin_experience` began; it was trained by then.

        Raises:
            UserError: If none was trained.
        """
        if self._run.experience is None:
            raise UserError("no experience has been trained: call train() first")
        self._run.leave()
        self._is_explicit = False

    def finalize_model(self) -> nn.Module:
        """The model to keep, after the last experience: averages taken, adapters merged.

        Save it with its own ``save_pretrained``, or the trainer's ``save_model``. Nothing can be
        trained afterwards.
        """
        if self._run.experience is not None:
            self.end_experience()
        trainer: Any = self
        if not self._is_finished:
            trainer.model = trainer.model_wrapped = self.strategy.finalize_model(trainer.model)
            self._is_finished = True
        finished: nn.Module = trainer.model
        return finished

    def save_strategy(self, folder: str | Path) -> None:
        """Write the strategy's state beside a model that is saved: between two experiences.

        Args:
            folder: As :meth:`load_strategy` is given it; made if need be.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_strategy_files(self._run, Path(folder), self._weights)

    def load_strategy(self, folder: str | Path) -> None:
        """Go on with the stream of another process, with the model that it saved.

        Args:
            folder: What :meth:`save_strategy` was given, between two experiences.

        Raises:
            UserError: If the state is another strategy's, or was saved within an experience.
        """
        files = StrategyFiles(Path(folder), self._run)
        if files.experience is not None:
            raise UserError(
                f"{folder} was saved within experience {files.experience!r}: resume it with "
                "train(resume_from_checkpoint=...)"
            )
        files.place((), self._training(1))
        files.load(self._weights)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kw: Any) -> Any:
        """As the Trainer's; then the experience ends, unless ``begin_experience`` began it."""
        self._refuse_if_finished()
        trainer: Any = self
        folder = checkpoint_folder(resume_from_checkpoint, trainer.args.output_dir)
        rows, steps = self._own_rows()
        if folder is not None:
            self._resume(folder, rows)
        elif self._run.experience is None:
            self._enter(rows, steps)
        try:
            result = super().train(folder, *args, **kw)  # type: ignore[misc]
        finally:
            self._losses.clear()
        if not self._is_explicit:
            self._run.leave()
        return result

    def _enter(self, rows: EncodedRows, steps: int) -> None:
        """Begin the next experience."""
        trainer: Any = self
        self._is_explicit = self._pending is not None
        name = self._pending or f"experience {self._run.entered + 1}"
        self._run.enter(name, rows, steps, self._training(steps))
        self._pending = None
        if self._has_own_optimizer:
            trainer.optimizer = trainer.lr_scheduler = None

    def _resume(self, folder: Path, rows: EncodedRows) -> None:
        """Go on in the experience that a checkpoint was saved in."""
        files = StrategyFiles(folder, self._run)
        if files.experience is None:
            raise UserError(f"{folder} was saved between two experiences: use load_strategy()")
        if self._pending is not None and self._pending != files.experience:
            raise UserError(
                f"{folder} was saved in experience {files.experience!r}, and {self._pending!r} has "
                "begun: begin that one with its data set, or train without the checkpoint"
            )
        self._is_explicit = self._pending is not None or self._is_explicit
        self._pending = None
        files.place(rows, self._training(1))
        self._files = files
        if self._has_own_optimizer:
            trainer: Any = self
            trainer.optimizer = trainer.lr_scheduler = None

    def _own_rows(self) -> tuple[EncodedRows, int]:
        """The training data as the strategy knows examples, and how many steps are made on it."""
        trainer: Any = self
        loader = super().get_train_dataloader()  # type: ignore[misc]
        steps = trainer.set_initial_training_values(trainer.args, loader)[-1]
        rows, join = loader.dataset, loader.collate_fn
        if not hasattr(rows, "__len__"):
            raise refuse(
                self.strategy,
                "needs a data set with a length and rows by position",
                "make it a datasets.Dataset or a list",
            )
        if not len(rows):
            raise UserError("the training data has no rows")
        return EncodedRows(rows, lambda row: join([row])), steps

    def _training(self, steps: int) -> TrainingSpec:
        trainer: Any = self
        args = trainer.args
        given = None if self._has_own_optimizer else type(bare(trainer.optimizer)).__name__
        return known_training(
            given or str(getattr(args.optim, "value", args.optim)),
            args.learning_rate,
            max(steps, 1),
            self._has_own_optimizer,
        )

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

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's, with the strategy's factor on the learning rate."""
        arguments = self.args  # type: ignore[attr-defined]
        rate = arguments.learning_rate
        try:
            arguments.learning_rate = rate * self.strategy.learning_rate_factor
            return super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        finally:
            arguments.learning_rate = rate

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
        objective, summed = training_loss(model, batch, self.strategy)
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
            overrides(self.strategy, hook) for hook in ("token_weights", "batch_penalty")
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

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's, of the model as it would be finished now."""
        if self._is_finished:
            return super().evaluation_loop(*args, **kwargs)  # type: ignore[misc]
        trainer: Any = self
        trained = trainer.model
        with self.strategy.as_finished(trained) as finished:
            trainer.model = finished
            try:
                return super().evaluation_loop(*args, **kwargs)  # type: ignore[misc]
            finally:
                trainer.model = trained

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the Trainer's; the entry of a training loss gets the strategy's statistics."""
        if "loss" in logs:
            statistics = self._run.statistics()
            if self._penalties:
                statistics["penalty"] = sum(self._penalties) / len(self._penalties)
                self._penalties = []
            logs.update({f"{PREFIX}{name}": value for name, value in statistics.items()})
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _refuse_if_finished(self) -> None:
        if self._is_finished:
            raise UserError("finalize_model() has ended the training: make a new trainer")

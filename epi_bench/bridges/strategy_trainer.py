"""Any strategy in ``transformers.Trainer`` and the trainers that build on it, such as TRL's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from epi_bench.bridges.base_texts import (
    GeneralText,
    StrategyTexts,
    TextsOfTheLoop,
    longest_text,
)
from epi_bench.bridges.experience_rows import EncodedRows
from epi_bench.bridges.optimizer_steps import bare
from epi_bench.bridges.strategy_callback import StrategyCallback
from epi_bench.bridges.strategy_files import StrategyFiles, save_strategy_files
from epi_bench.bridges.strategy_run import StrategyRun, known_training
from epi_bench.bridges.trainer_loss import StrategyLoss
from epi_bench.bridges.trainer_support import (
    checkpoint_folder,
    pad_token,
    refuse_an_optimizer_of_other_weights,
    refuse_what_is_not_supported,
)
from epi_bench.errors import UserError
from epi_bench.model.adapted import is_adapted
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.training.loop_state import ModelState

if TYPE_CHECKING:
    from torch import nn

    from epi_bench.strategy.strategy import Strategy

TrainerType = TypeVar("TrainerType", bound=type)


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


class StrategyTrainer(StrategyLoss):
    """What :func:`with_strategy` adds to a Trainer.

    ``train(resume_from_checkpoint=...)`` takes the strategy's state up from the checkpoint's files
    ``strategy.safetensors`` and ``strategy.json``, and ``load_best_model_at_end`` gives back the
    state that belongs to the best weights. Evaluation scores the model as it would be finished now.
    The log, and with it every tracker, gets the strategy's statistics with the prefix
    ``strategy_``; its ``loss`` stays that of the tokens, and ``strategy_penalty`` stands beside it.

    Args:
        general_text: For ``protect_base="general_text"``: what the model can do already, by
            example; the path of a UTF-8 file or a list of texts. The model's tokenizer reads it
            (``processing_class``), as it does for every ``protect_base`` but ``none``.
        args, kwargs: The Trainer's.

    Attributes:
        strategy: The strategy, to look at.
    """

    strategy_and_options: ClassVar[tuple[Any, Mapping[str, Any]]]

    def __init__(self, *args: Any, general_text: GeneralText | None = None, **kwargs: Any) -> None:
        self._run = StrategyRun(*self.strategy_and_options)
        super().__init__(*args, **kwargs)
        trainer: Any = self
        refuse_what_is_not_supported(trainer, self.strategy)
        self._has_own_optimizer = trainer.optimizer is None
        self._is_finished = self._is_explicit = False
        self._pending: str | None = None
        self._files: StrategyFiles | None = None
        model = trainer.model
        known = {id(p) for p in model.parameters()}
        prepared = self._run.prepare(
            model,
            seed=trainer.args.seed,
            device=trainer.args.device,
            pad_token_id=pad_token(trainer),
            base_texts=StrategyTexts(self.strategy, _texts_of(trainer, general_text)),
        )
        refuse_an_optimizer_of_other_weights(trainer, self.strategy, prepared, known)
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
        self._run.leave(keeps_optimizer=not self._has_own_optimizer)
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
            trainer.model = trainer.model_wrapped = self._run.finish()
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
        if not self._has_own_optimizer:
            self._run.context.optimizer = bare(self.optimizer)  # type: ignore[attr-defined]
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
            self._run.leave(keeps_optimizer=not self._has_own_optimizer)
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
        if self._run.is_over:
            raise UserError(
                f"the strategy ended experience {files.experience!r} where {folder} was saved, so "
                "there is nothing left to train in it: resume from an earlier checkpoint"
            )
        self._files = files
        if self._has_own_optimizer:
            trainer: Any = self
            trainer.optimizer = trainer.lr_scheduler = None

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

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's, with the strategy's factor on the learning rate."""
        arguments = self.args  # type: ignore[attr-defined]
        rate = arguments.learning_rate
        try:
            arguments.learning_rate = rate * self.strategy.learning_rate_factor
            return super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        finally:
            arguments.learning_rate = rate

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's, of the model as it would be finished now."""
        if self._is_finished or not self._run.entered:
            return super().evaluation_loop(*args, **kwargs)  # type: ignore[misc]
        trainer: Any = self
        trained = trainer.model
        with self.strategy.as_finished(trained) as finished:
            trainer.model = finished
            try:
                return super().evaluation_loop(*args, **kwargs)  # type: ignore[misc]
            finally:
                trainer.model = trained

    def _refuse_if_finished(self) -> None:
        if self._is_finished:
            raise UserError("finalize_model() has ended the training: make a new trainer")


def _texts_of(trainer: Any, general_text: GeneralText | None) -> TextsOfTheLoop:
    lengths = [longest_text(trainer.model), getattr(trainer.args, "max_length", None)]
    return TextsOfTheLoop(
        getattr(trainer, "processing_class", None),
        general_text,
        min((length for length in lengths if length), default=None),
        "give processing_class=tokenizer",
    )

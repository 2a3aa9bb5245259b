"""Any strategy for a training loop of one's own, by the step hooks of the optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from epi_bench.bridges.base_texts import (
    GeneralText,
    StrategyTexts,
    TextsOfTheLoop,
    longest_text,
)
from epi_bench.bridges.experience_rows import EncodedRows, NoExamples
from epi_bench.bridges.optimizer_steps import bare, with_step_hooks
from epi_bench.bridges.parameters import trained_parameters
from epi_bench.bridges.step_hooks import OnOptimizer, StepActions, StepHooks, refuse_second_hooks
from epi_bench.bridges.strategy_files import StrategyFiles, save_strategy_files
from epi_bench.bridges.strategy_run import StrategyRun, known_training, overrides, refuse
from epi_bench.errors import UserError
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.strategy.low_rank import LowRankStrategy
from epi_bench.strategy.strategy import Strategy

EXAMPLES = "protection.begin_experience(name, rows)"


class StrategyProtection(OnOptimizer):
    """A strategy around the steps of one optimizer; made by :func:`epi_bench.protect`::

        protection = epi_bench.protect(optimizer, model, strategy="epi_similarity", penalty=100)
        for name, rows in stream:
            protection.begin_experience(name, rows)
            for batch in batches_of(rows):
                loss = model(**batch).loss + protection.penalty()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            protection.end_experience()

    Strategies that add nothing to the loss do without ``penalty()``, and those that read no
    examples without ``begin_experience``: the first step then begins an experience. Those that
    choose the training examples, weigh tokens or put adapters into the model are refused; they work
    in a Trainer (:func:`epi_bench.bridges.with_strategy`).

    A step whose gradients are not finite is left out. Gradients are those that the optimizer sees,
    after clipping.

    Attributes:
        strategy: The strategy, to look at.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        strategy: str | type[Strategy],
        options: Mapping[str, Any],
        seed: int = 0,
        tokenizer: Any = None,
        general_text: GeneralText | None = None,
    ) -> None:
        self._run = StrategyRun(strategy, options)
        self.strategy = self._run.strategy
        _refuse_what_needs_a_loop(self.strategy)
        texts = TextsOfTheLoop(
            tokenizer, general_text, longest_text(model), "give protect(..., tokenizer=tokenizer)"
        )
        base_texts = StrategyTexts(self.strategy, texts)
        trained = trained_parameters(optimizer, model)
        hooked = with_step_hooks(optimizer)
        refuse_second_hooks(hooked)
        self._optimizer = bare(optimizer)
        self._penalty_given = False
        device = next(iter(trained.values())).device
        pad = getattr(getattr(model, "config", None), "pad_token_id", None)
        prepared = self._run.prepare(
            model, seed=seed, device=device, pad_token_id=pad or 0, base_texts=base_texts
        )
        if prepared is not model:
            raise refuse(
                self.strategy, "makes another model of it", "use epi_bench.bridges.with_strategy"
            )
        actions = StepActions(
            prepare=lambda: None,
            observe=self._observe,
            updated=self._run.parameters_updated,
            skipped=lambda: None,
        )
        self._hooks: StepHooks | None = StepHooks(optimizer, hooked, actions)

    def begin_experience(
        self,
        name: str,
        examples: Sequence[Mapping[str, Any] | EncodedExample] | None = None,
        steps: int | None = None,
    ) -> None:
        """Begin an experience of the stream.

        Args:
            name: For messages.
            examples: Its training data: rows with ``input_ids`` and ``labels``, each a list or a
                tensor of one dimension, -100 where there is no loss. Strategies that read none do
                without.
            steps: Optimizer steps that it will last, if that is known.

        Raises:
            UserError: If another one has not ended, or the strategy needs examples.
        """
        if self._run.experience is not None:
            raise UserError(
                f"experience {self._run.experience.name!r} has not ended: call end_experience() "
                "first"
            )
        self._run.enter(name, _encoded(examples), steps, self._training())
        self._run.context.optimizer = self._optimizer

    def end_experience(self) -> None:
        """End it: the strategy measures and keeps what it wants to keep.

        Raises:
            UserError: If none has begun.
        """
        if self._run.experience is None:
            raise UserError("no experience has begun: call begin_experience() first, or train")
        self._run.leave(keeps_optimizer=True)

    def penalty(self) -> Tensor:
        """What is to be added to the loss before ``backward()``; zero if there is nothing.

        With gradient accumulation it may be added to each micro-batch, undivided: only the first
        call before each step gives it.
        """
        self._begin_if_need_be()
        found = None if self._penalty_given else self._run.penalty()
        self._penalty_given = True
        return torch.zeros((), device=self._run.context.device) if found is None else found

    def finished(self) -> AbstractContextManager[nn.Module]:
        """A context manager with the model as it would be finished now, for scoring."""
        return self.strategy.as_finished(self._run.context.model)

    def finalize_model(self) -> nn.Module:
        """End all: the model to keep, with averages taken."""
        if self._run.experience is not None:
            self.end_experience()
        self.remove()
        return self._run.finish()

    def statistics(self) -> dict[str, float]:
        """Steps so far and the strategy's diagnostics."""
        return {"steps": float(self._run.steps)} | self._run.statistics()

    def state_bytes(self) -> int:
        """Bytes held beside model and optimizer."""
        return self.strategy.state_bytes()

    def save(self, folder: str | Path) -> None:
        """Write the state, as tensors and JSON, beside model and optimizer that you save.

        Args:
            folder: Made if need be.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_strategy_files(self._run, Path(folder), None)

    def load(
        self,
        folder: str | Path,
        examples: Sequence[Mapping[str, Any] | EncodedExample] | None = None,
    ) -> None:
        """Go on exactly; load the weights and the optimizer's state of then before.

        Args:
            folder: What :meth:`save` was given.
            examples: Of the experience under way, as for :meth:`begin_experience`.

        Raises:
            UserError: If there is no state, or it is another strategy's.
        """
        files = StrategyFiles(Path(folder), self._run)
        files.place(_encoded(examples), self._training())
        if self._run.entered:  # the first experience begins without one
            self._run.context.optimizer = self._optimizer
        files.load(None)

    def _training(self) -> TrainingSpec:
        rate = float(self._optimizer.param_groups[0].get("lr", 0))
        return known_training(type(self._optimizer).__name__, rate, 1, is_fresh=False)

    def _begin_if_need_be(self) -> None:
        if self._run.experience is None:
            self.begin_experience(f"experience {self._run.entered + 1}")

    def _observe(self) -> None:
        """Before the optimizer's step: its gradients are complete."""
        self._begin_if_need_be()
        if overrides(self.strategy, "penalty") and not self._penalty_given:
            raise refuse(
                self.strategy,
                "adds to the loss",
                "train loss + protection.penalty(), with the penalty before backward()",
            )
        self._penalty_given = False
        if not self._run.gradients_ready(self._optimizer, None):
            for parameter in self._run.context.model.parameters():
                parameter.grad = None  # the optimizer moves nothing then


def _encoded(
    examples: Sequence[Mapping[str, Any] | EncodedExample] | None,
) -> Sequence[EncodedExample]:
    if examples is None:
        return NoExamples(f"call {EXAMPLES} before its first step")
    if all(isinstance(example, EncodedExample) for example in examples):
        return examples  # type: ignore[return-value]
    return EncodedRows(examples, _batch_of_one)


def _batch_of_one(row: Mapping[str, Any]) -> dict[str, Tensor]:
    keys = ("input_ids", "labels", "attention_mask")
    return {key: torch.as_tensor(row[key]).reshape(1, -1) for key in keys if key in row}


def _refuse_what_needs_a_loop(strategy: Strategy) -> None:
    use_trainer = "use epi_bench.bridges.with_strategy"
    for is_so, reason, remedy in (
        (overrides(strategy, "training_examples"), "chooses the training examples", use_trainer),
        (overrides(strategy, "stop_experience"), "ends experiences early", use_trainer),
        (overrides(strategy, "token_weights"), "weighs the tokens of a batch", use_trainer),
        (overrides(strategy, "batch_penalty"), "reads the logits of a batch", use_trainer),
        (isinstance(strategy, LowRankStrategy), "puts adapters into the model", use_trainer),
        (
            strategy.learning_rate_factor != 1,
            "changes the learning rate",
            f"multiply your optimizer's by {strategy.learning_rate_factor} yourself",
        ),
    ):
        if is_so:
            raise refuse(strategy, f"{reason}, which protect() cannot do", remedy)

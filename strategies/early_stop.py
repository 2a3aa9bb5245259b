"""Early stopping: an experience ends when its validation loss no longer falls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from epi_bench import (
    EncodedExample,
    ExampleMemory,
    Experience,
    Step,
    Strategy,
    TradeOff,
    TrainingSpec,
    UserError,
    mean_token_loss,
    register_strategy,
    state_part,
    trained_parameters,
)

BASE_EXAMPLES = 32
"""Of the base model's text, at most, on which its loss is watched."""


@register_strategy("early_stop")
class EarlyStopping(Strategy):
    """Full fine-tuning that stops when the new task is learned, and keeps the best weights.

    Examples of each experience are held out of its training (never test examples). Each
    ``check_every`` steps, and at its end, the mean loss ``v`` of their tokens is measured:

        keep the weights if ``v < (1 - tolerance) v_kept``

    After ``patience`` checks in a row that kept nothing the experience ends, and it ends with the
    weights that were kept last. So their loss is within ``tolerance`` of the lowest of all checks,
    and later steps, which learn little more, do not cost what the model could do before (Prechelt
    1998; Morgan and Bourlard 1990). The learning rate falls as if all steps were made.

    With ``protect_base`` the loss on a text is watched too: where it has risen by more than
    ``largest_rise`` nats a token above the base model's, nothing is kept and the experience ends at
    once. Costs a copy of the weights and a forward pass over the examples at each check.

    Args:
        check_every: Optimizer steps between two checks, at least 1.
        validation_examples: Held out of an experience, at least 1; at most half of it is.
        tolerance: Share of the kept loss by which a lower one must be lower, in [0, 1).
        patience: Checks in a row that keep nothing until the experience ends, at least 1.
        protect_base: Text on which the loss may not rise much: ``none``, ``general_text`` (the
            run's), ``self`` (which the model writes) or the path of a text file.
        largest_rise: Most that the loss on it may rise, in nats a token, at least 0.
    """

    family = "baseline"
    needs = ("boundaries", "old weights")
    bytes_per_parameter = "4"
    trade_off = TradeOff("tolerance", (0.0, 0.01, 0.03, 0.1, 0.3))
    search_space = tuple(
        {"tolerance": tolerance, "check_every": steps}
        for tolerance in (0.0, 0.01, 0.1)
        for steps in (5, 20)
    )
    evidence = "A baseline that most comparisons lack."

    changes_gradients = False
    not_in_state = ("_validation",)

    def __init__(
        self,
        check_every: int = 20,
        validation_examples: int = 64,
        tolerance: float = 0.01,
        patience: int = 3,
        protect_base: str = "none",
        largest_rise: float = 0.1,
    ) -> None:
        for option, value in (
            ("check_every", check_every),
            ("validation_examples", validation_examples),
            ("patience", patience),
        ):
            if value < 1:
                raise UserError(f"early_stop: {option}={value} must be at least 1")
        if not 0 <= tolerance < 1:
            raise UserError(f"early_stop: tolerance={tolerance} must lie in [0, 1)")
        if not 0 <= largest_rise < math.inf:
            raise UserError(f"early_stop: largest_rise={largest_rise} must be at least 0")
        self.check_every = check_every
        self.validation_examples = validation_examples
        self.tolerance = tolerance
        self.patience = patience
        self.protect_base = protect_base
        self.largest_rise = largest_rise
        self._validation: tuple[int, Sequence[EncodedExample]] | None = None
        self._base = ExampleMemory(BASE_EXAMPLES)
        self._base_loss = math.nan
        self._kept: dict[str, Tensor] = {}
        self._kept_loss = math.inf
        self._kept_at = self._fruitless = 0
        self._over = False
        self._last = {"validation_loss": math.nan, "text_rise": math.nan}

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """Whether there are checks before the end of an experience."""
        if self.check_every < max(steps):
            return ()
        return [
            f"early_stop checks every {self.check_every} steps and no experience has more than "
            f"{max(steps)}, so it is full fine-tuning on fewer examples: lower its option "
            "check_every"
        ]

    def begin_training(self) -> None:
        """Measure the base model on its text."""
        if self.protect_base != "none":
            base = self.context.base_experience(self.protect_base, BASE_EXAMPLES)
            self._base.offer(base.examples, self.context.generator("order of the base's text"))
            self._base_loss = self._loss(self._base.examples)

    def begin_experience(self, experience: Experience) -> None:
        """Keep the weights as they are, until a check finds better ones."""
        self._keep(math.inf, 0)
        self._fruitless, self._over = 0, False

    def training_examples(self, experience: Experience) -> Sequence[EncodedExample]:
        """All but those that are held out."""
        return self.context.validation_split(experience, self.validation_examples).training

    def parameters_updated(self, step: Step) -> None:
        """Check, if it is time."""
        number = step.number_in_experience
        if number % self.check_every and number != step.experience.steps:
            return
        loss, rise = self._loss(self._held_out(step.experience)), 0.0
        if self.protect_base != "none":
            rise = self._loss(self._base.examples) - self._base_loss
            self._last["text_rise"] = rise
        self._last["validation_loss"] = loss
        if not rise <= self.largest_rise:
            self._over = True
        elif loss < (1 - self.tolerance) * self._kept_loss:
            self._keep(loss, number)
            self._fruitless = 0
        else:
            self._fruitless += 1
            self._over = self._fruitless >= self.patience

    def stop_experience(self, step: Step) -> bool:
        """After too many checks that kept nothing, or where a text has been forgotten."""
        return self._over

    @torch.no_grad()
    def end_experience(self, experience: Experience) -> None:
        """Go back to the weights that were kept."""
        parameters = trained_parameters(self.context.model)
        for name, tensor in self._kept.items():
            parameters[name].copy_(tensor)

    def diagnostics(self) -> dict[str, float]:
        """The last check, and which step of the experience was kept."""
        found = {name: value for name, value in self._last.items() if not math.isnan(value)}
        return found | ({"kept_step": float(self._kept_at)} if found else {})

    def state_dict(self) -> dict[str, Tensor]:
        """The weights that are kept, the base model's text, and where the checks stand."""
        numbers = [
            self._base_loss,
            self._kept_loss,
            self._kept_at,
            self._fruitless,
            self._over,
            *self._last.values(),
        ]
        return (
            {"numbers": torch.tensor(numbers, dtype=torch.float64)}
            | {f"kept.{name}": tensor for name, tensor in self._kept.items()}
            | {f"base.{name}": tensor for name, tensor in self._base.state_dict().items()}
        )

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take all of it up."""
        base_loss, kept_loss, kept_at, fruitless, over, *last = state["numbers"].tolist()
        self._base_loss, self._kept_loss = base_loss, kept_loss
        self._kept_at, self._fruitless, self._over = int(kept_at), int(fruitless), bool(over)
        self._last = dict(zip(self._last, last, strict=True))
        self._kept = {name: t.clone() for name, t in state_part(state, "kept.").items()}
        self._base.load_state_dict(state_part(state, "base."))

    @torch.no_grad()
    def _keep(self, loss: float, number: int) -> None:
        trained = trained_parameters(self.context.model)
        self._kept = {name: p.detach().clone() for name, p in trained.items()}
        self._kept_loss, self._kept_at = loss, number

    def _held_out(self, experience: Experience) -> Sequence[EncodedExample]:
        if self._validation is None or self._validation[0] != experience.index:
            split = self.context.validation_split(experience, self.validation_examples)
            self._validation = (experience.index, split.validation)
        return self._validation[1]

    def _loss(self, examples: Sequence[EncodedExample]) -> float:
        return mean_token_loss(self.context, examples)

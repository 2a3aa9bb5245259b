"""Memory aware synapses: importance from how far a weight moves what the model computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from epi_bench import (
    Experience,
    Strategy,
    TradeOff,
    UserError,
    register_strategy,
    state_part,
    trained_parameters,
    weighted_distance,
)


@register_strategy("mas")
class MemoryAwareSynapses(Strategy):
    """Penalty weighted by the sensitivity of the model's features (arXiv 1711.09601).

    At the end of experience k, over ``samples`` of its training examples and without their labels,

        ``M_k = mean over examples of |d ||f||^2 / d theta|``,

    where ``||f||^2`` is the mean over the example's tokens of the squared length of the hidden
    state before the output head, divided by its size. Aljundi et al. 2018 take the network's
    output; the logits of a language model have as many dimensions as the vocabulary, and adding a
    constant to all of them would change their length and nothing else. Afterwards

        ``loss + strength sum (sum_k M_k) (theta - theta*)^2``

    with the weights that the last experience ended with. The absolute value is taken for each
    example by itself. The output head has no sensitivity and is not held. Keeps 8 bytes a
    parameter.

    Args:
        strength: Weight of the penalty, at least 0 (lambda in the paper).
        samples: Training examples that are read, at least 1.
        protect_base: Text that says what the base model can do already; it is protected from the
            first step on like a finished task: ``none``, ``general_text`` (the run's), ``self``
            (text that the model writes, which needs no data) or the path of a text file.
    """

    family = "penalty"
    needs = ("boundaries", "old weights")
    bytes_per_parameter = "8"
    trade_off = TradeOff("strength", (0.01, 0.1, 1.0, 10.0, 100.0))

    acts_from = 1
    later_options: ClassVar[Mapping[str, Any]] = {"protect_base": "none"}

    def __init__(
        self, strength: float = 1.0, samples: int = 64, protect_base: str = "none"
    ) -> None:
        if strength < 0:
            raise UserError(f"mas: strength={strength} must be at least 0")
        if samples < 1:
            raise UserError(f"mas: samples={samples} must be at least 1")
        self.strength = strength
        self.samples = samples
        self.protect_base = protect_base
        if protect_base != "none":
            self.acts_from = 0
        self._importance: dict[str, Tensor] = {}
        self._anchor: dict[str, Tensor] = {}

    def begin_training(self) -> None:
        """Measure the base model, if it is to be protected, as a task that has been finished."""
        if self.protect_base != "none":
            self._keep(self.context.base_experience(self.protect_base, self.samples))

    def penalty(self, model: nn.Module) -> Tensor | None:
        """The weighted quadratic penalty, or ``None`` before the first experience has ended."""
        if not self._importance or self.strength == 0:
            return None
        return self.strength * weighted_distance(model, self._anchor, self._importance)

    def end_experience(self, experience: Experience) -> None:
        """Add what the model's features are sensitive to now, and anchor the weights."""
        self._keep(experience)

    def _keep(self, experience: Experience) -> None:
        parameters = trained_parameters(self.context.model)
        for name, new in self._sensitivity(experience, parameters).items():
            self._importance[name] = new + self._importance.get(name, 0)
        self._anchor = {name: p.detach().clone() for name, p in parameters.items()}

    def stiffness(self) -> Mapping[str, Tensor]:
        """The features' sensitivity to each weight."""
        return self._importance if self.strength > 0 else {}

    def state_dict(self) -> dict[str, Tensor]:
        """Importance and anchor of each weight."""
        state = {f"importance.{name}": t for name, t in self._importance.items()}
        return state | {f"anchor.{name}": t for name, t in self._anchor.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take both up."""
        self._importance = {n: t.clone() for n, t in state_part(state, "importance.").items()}
        self._anchor = {n: t.clone() for n, t in state_part(state, "anchor.").items()}

    def _sensitivity(
        self, experience: Experience, parameters: Mapping[str, nn.Parameter]
    ) -> dict[str, Tensor]:
        model = self.context.model
        generator = self.context.generator(f"samples of experience {experience.index}")
        count = min(self.samples, len(experience.examples))
        drawn = generator.sample(list(experience.examples), count)
        found = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
        was_training = model.training
        model.eval()
        for batch in self.context.batches(drawn, batch_size=1):  # no padding
            hidden = model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                output_hidden_states=True,
            ).hidden_states[-1]
            length = hidden.float().square().mean()
            gradients = torch.autograd.grad(length, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    found[name] += gradient.float().abs() / count
        model.train(was_training)
        return found

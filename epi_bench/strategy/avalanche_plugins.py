"""Plugins of avalanche as strategies: ``avalanche:EWCPlugin``.

The plugin is avalanche's own code, called at the hooks that mean the same here: what it adds to the
loss is the penalty of a step, what it does to gradients is done once they are complete, and what it
does after an experience is done then, on that experience's examples. Its draws, which it makes with
the global generators, are seeded for each purpose, so that a run that was interrupted goes on
exactly.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from epi_bench.errors import UserError, unknown_name
from epi_bench.isolation.saved_state import state_part
from epi_bench.spec.randomness import kept_random_states
from epi_bench.strategy.avalanche_tokens import (
    TokenModel,
    dataset_examples,
    token_dataset,
    token_loss,
)
from epi_bench.strategy.example_memory import examples_as_tensors, examples_from_tensors
from epi_bench.strategy.facts import TradeOff
from epi_bench.strategy.hooks import Experience, Step
from epi_bench.strategy.strategy import Strategy

if TYPE_CHECKING:
    from epi_bench.spec.run_spec import TrainingSpec

PAD = 0
"""Token that fills short rows of the plugins' batches; it is masked and carries no loss."""

REFUSED = {
    "SynapticIntelligencePlugin": "on the CPU it compares each weight with itself, so that its "
    "penalty is 0 whatever its strength; take si",
    "LwFPlugin": "it distils at positions of padding too, so that a step depends on how it is cut "
    "into batches; take kl_to_base",
    "ReplayPlugin": "it brings a data loader of its own, and the batches of a run are drawn here; "
    "take replay",
    "GEMPlugin": "it needs batches of one fixed length and the package quadprog; take agem",
    "RWalkPlugin": "on token losses its importance is not a number; take si or ewc",
    "MIRPlugin": "it reads features of a classifier, which a language model has not; take replay",
    "LFLPlugin": "it reads features of a classifier, which a language model has not; take "
    "kl_to_base",
    "EarlyStoppingPlugin": "the number of steps of a run is fixed",
    "LRSchedulerPlugin": "the learning rate is the run's: training.decay, training.warmup_share",
    "EvaluationPlugin": "it trains nothing; a run is scored anyway",
}
"""Why a plugin is no strategy here, and what is in its place."""


def avalanche_strategy(name: str) -> type[Strategy]:
    """The plugin of avalanche as a strategy.

    Args:
        name: Of its class, such as ``EWCPlugin``.

    Raises:
        UserError: If it is none of those that can work on the losses of tokens.
    """
    shown = f"avalanche:{name}"
    if name in _STRATEGIES:
        cls = _STRATEGIES[name]
        cls.name = shown
        return cls
    if name in REFUSED:
        raise UserError(f"{shown} cannot be a strategy: {REFUSED[name]}")
    if name.endswith("Plugin") and hasattr(_plugins(), name):
        raise UserError(
            f"{shown} cannot be a strategy: it is for classifiers, or nobody has tried it on the "
            f"losses of tokens; choose from: {', '.join(sorted(_STRATEGIES))}"
        )
    raise unknown_name("plugin of avalanche", name, [*_STRATEGIES, *REFUSED])


class AvalancheStrategy(Strategy):
    """A plugin of avalanche at the hooks of this package.

    A subclass makes its plugin in its constructor and says what of it is state.

    Args:
        plugin: The plugin.
        batch_size: Examples of a batch where the plugin looks at an experience's examples itself.
    """

    needs: ClassVar[Collection[str]] = ("boundaries",)
    changes_gradients: ClassVar[bool] = False
    not_in_state = ("plugin", "_loop")
    acts_from = 1

    def __init__(self, plugin: Any, batch_size: int) -> None:
        if batch_size < 1:
            raise UserError(f"{self.name}: batch_size={batch_size} must be at least 1")
        self.plugin = plugin
        self.batch_size = batch_size
        self._finished = 0
        self._loop: Any = None

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Show the plugin what it reads of avalanche's loop."""
        self._loop = SimpleNamespace(
            model=TokenModel(model),
            optimizer=SimpleNamespace(zero_grad=lambda: _clear_gradients(model)),
            device=next(model.parameters()).device,
            clock=SimpleNamespace(train_exp_counter=self._finished),
            train_mb_size=self.batch_size,
            _criterion=token_loss,
            loss=None,
            experience=None,
        )
        return model

    def end_experience(self, experience: Experience) -> None:
        """Let the plugin look at the experience's examples."""
        model = self._loop.model
        training = model.training
        dataset = token_dataset(experience.examples, PAD)
        self._loop.experience = SimpleNamespace(dataset=dataset)
        with self._seeded(f"avalanche plugin after experience {experience.index}"):
            self.plugin.after_training_exp(self._loop)
        model.train(training)
        _clear_gradients(model)
        self._loop.experience = None
        self._finished += 1
        self._loop.clock.train_exp_counter = self._finished

    def state_dict(self) -> dict[str, Tensor]:
        """How many experiences have ended, and what the plugin keeps of them."""
        return {"finished": torch.tensor(self._finished), **self._plugin_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take both up."""
        self._finished = int(state["finished"])
        self._loop.clock.train_exp_counter = self._finished
        self._load_plugin(state)

    def _plugin_state(self) -> dict[str, Tensor]:
        raise NotImplementedError

    def _load_plugin(self, state: Mapping[str, Tensor]) -> None:
        raise NotImplementedError

    @contextmanager
    def _seeded(self, purpose: str) -> Iterator[None]:
        """The global generators are this purpose's own, and afterwards what they were."""
        import random

        import numpy

        seed = self.context.torch_generator(purpose).initial_seed()
        with kept_random_states(), torch.random.fork_rng():
            random.seed(seed)
            numpy.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield


class AvalanchePenalty(AvalancheStrategy):
    """A plugin whose only part in the training is a penalty on the weights."""

    def penalty(self, model: nn.Module) -> Tensor | None:
        """What the plugin adds to the loss."""
        if self._finished == 0:
            return None
        # plugins refuse a loss of 0; beside this one every penalty is the same to the last digit
        nothing = torch.tensor(1e-300, dtype=torch.float64, device=self._loop.device)
        self._loop.loss = nothing
        self.plugin.before_backward(self._loop)
        penalty: Tensor = self._loop.loss.float()
        self._loop.loss = None
        return penalty


class EWCPlugin(AvalanchePenalty):
    """avalanche's ``EWCPlugin``: elastic weight consolidation.

    ``loss + ewc_lambda sum_k sum_i F_k,i (theta_i - theta*_k,i)^2``, without the factor 1/2 of
    ``ewc``. ``F_k`` is the mean over the experience's batches of the squared gradient of the
    batch's mean loss, so it depends on the batch size; with batches of one it is what ``ewc``
    computes of all examples. Reads all of an experience's examples at its end.

    Args:
        ewc_lambda: Weight of the penalty, at least 0.
        mode: ``separate`` keeps importance and weights of every finished experience, ``online``
            of one.
        decay_factor: Forgetting of old importance in ``online`` mode, in [0, 1].
        batch_size: Examples of a batch of the importance, at least 1.
    """

    family = "penalty"
    needs = ("boundaries", "old weights")
    bytes_per_parameter = "8 * experiences"
    trade_off = TradeOff("ewc_lambda", (1.0, 10.0, 100.0, 1000.0))

    def __init__(
        self,
        ewc_lambda: float = 50.0,
        mode: Literal["separate", "online"] = "separate",
        decay_factor: float = 1.0,
        batch_size: int = 8,
    ) -> None:
        if ewc_lambda < 0:
            raise UserError(f"{self.name}: ewc_lambda={ewc_lambda} must be at least 0")
        if not 0 <= decay_factor <= 1:
            raise UserError(f"{self.name}: decay_factor={decay_factor} must lie in [0, 1]")
        decay = decay_factor if mode == "online" else None
        super().__init__(_plugins().EWCPlugin(ewc_lambda, mode, decay), batch_size)

    def _plugin_state(self) -> dict[str, Tensor]:
        parts = {"importance": self.plugin.importances, "anchor": self.plugin.saved_params}
        return {
            f"{part}.{index}.{name}": kept.data
            for part, experiences in parts.items()
            for index, weights in experiences.items()
            for name, kept in weights.items()
        }

    def _load_plugin(self, state: Mapping[str, Tensor]) -> None:
        parts = {"importance": self.plugin.importances, "anchor": self.plugin.saved_params}
        for part, experiences in parts.items():
            experiences.clear()
            for name, tensor in state_part(state, f"{part}.").items():
                index, _, weight = name.partition(".")
                experiences[int(index)][weight] = _kept(weight, tensor)


class MASPlugin(AvalanchePenalty):
    """avalanche's ``MASPlugin``: memory aware synapses.

    ``loss + lambda_reg sum_i Omega_i (theta_i - theta*_i)^2``. ``Omega`` is the mean over the
    experience's batches of the absolute gradient of the mean squared norm of the logits, over all
    positions, those of padding among them. It depends on the batch size and on what shorter
    examples are batched with; ``mas`` measures example by example. Reads all of an experience's
    examples at its end.

    Args:
        lambda_reg: Weight of the penalty, at least 0.
        alpha: Share of the old importance in the new one, in [0, 1].
        batch_size: Examples of a batch of the importance, at least 1.
    """

    family = "penalty"
    needs = ("boundaries", "old weights")
    bytes_per_parameter = "8"
    trade_off = TradeOff("lambda_reg", (0.01, 0.1, 1.0, 10.0))

    def __init__(self, lambda_reg: float = 1.0, alpha: float = 0.5, batch_size: int = 8) -> None:
        if lambda_reg < 0:
            raise UserError(f"{self.name}: lambda_reg={lambda_reg} must be at least 0")
        if not 0 <= alpha <= 1:
            raise UserError(f"{self.name}: alpha={alpha} must lie in [0, 1]")
        super().__init__(_plugins().MASPlugin(lambda_reg, alpha), batch_size)

    def _plugin_state(self) -> dict[str, Tensor]:
        parts = {"importance": self.plugin.importance, "anchor": self.plugin.params}
        return {
            f"{part}.{name}": kept.data
            for part, weights in parts.items()
            for name, kept in (weights or {}).items()
        }

    def _load_plugin(self, state: Mapping[str, Tensor]) -> None:
        importance, anchor = (
            {name: _kept(name, t) for name, t in state_part(state, f"{part}.").items()} or None
            for part in ("importance", "anchor")
        )
        self.plugin.importance, self.plugin.params = importance, anchor


class AGEMPlugin(AvalancheStrategy):
    """avalanche's ``AGEMPlugin``: no step may raise the loss on stored examples.

    As ``agem``, with another memory: so many examples of each experience, drawn anew for each step,
    as many from each finished one. Costs a second backward pass a step, and a copy of all
    gradients.

    Args:
        patterns_per_experience: Examples kept of each experience, at least 1.
        sample_size: Examples of the memory's gradient, at least one for each experience before the
            last.
    """

    family = "rehearsal"
    bytes_per_parameter = "0"
    changes_gradients = True
    stores_examples = True

    def __init__(self, patterns_per_experience: int = 128, sample_size: int = 16) -> None:
        for name, value in (
            ("patterns_per_experience", patterns_per_experience),
            ("sample_size", sample_size),
        ):
            if value < 1:
                raise UserError(f"{self.name}: {name}={value} must be at least 1")
        super().__init__(_plugins().AGEMPlugin(patterns_per_experience, sample_size), sample_size)

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """A batch of the memory has an example of each finished experience."""
        if self.plugin.sample_size < len(steps) - 1:
            raise UserError(
                f"{self.name}: sample_size={self.plugin.sample_size} is less than the "
                f"{len(steps) - 1} experiences before the last: raise it"
            )
        return ()

    def gradients_ready(self, step: Step) -> None:
        """Let the plugin compute the memory's gradient, and project the step's."""
        if not self.plugin.buffers:
            return
        parameters = list(step.model.parameters())
        gradients = [parameter.grad for parameter in parameters]
        training = step.model.training
        with self._seeded(f"avalanche plugin at step {step.number}"):
            self._draw_anew()
            self.plugin.before_training_iteration(self._loop)  # it clears gradients
        step.model.train(training)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.plugin.after_backward(self._loop)
        self.plugin.reference_gradients = torch.empty(0)

    def _draw_anew(self) -> None:
        from avalanche.benchmarks.utils.data_loader import GroupBalancedInfiniteDataLoader

        buffers = self.plugin.buffers
        size = self.plugin.sample_size // len(buffers)
        self.plugin.buffer_dliter = iter(GroupBalancedInfiniteDataLoader(buffers, batch_size=size))

    def _plugin_state(self) -> dict[str, Tensor]:
        return {
            f"buffer.{number}.{name}": tensor
            for number, buffer in enumerate(self.plugin.buffers)
            for name, tensor in examples_as_tensors(dataset_examples(buffer)).items()
        }

    def _load_plugin(self, state: Mapping[str, Tensor]) -> None:
        self.plugin.buffers = [
            token_dataset(examples_from_tensors(state_part(state, f"buffer.{number}.")), PAD)
            for number in range(self._finished)
        ]


_STRATEGIES: dict[str, type[AvalancheStrategy]] = {
    cls.__name__: cls for cls in (EWCPlugin, MASPlugin, AGEMPlugin)
}


def _plugins() -> Any:
    """avalanche's plugins, imported without what its own imports say to their users."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from avalanche.training import plugins

    return plugins


def _kept(name: str, tensor: Tensor) -> Any:
    """A tensor as the plugins keep them."""
    from avalanche.training.utils import ParamData

    return ParamData(name, init_tensor=tensor, device=tensor.device)


def _clear_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None

"""The contract for fine-tuning strategies.

A strategy overrides the few hooks that it needs; the training loop owns everything else. The hooks
are called in this order::

    check_run                           once, before the model is loaded
    check_model                         once, before anything is written
    prepare_model                       once, before the optimizer exists
    begin_training                      once, before the first experience
    for every experience:
        begin_experience
        training_examples               what to draw batches from
        for every optimizer step:
            token_weights               for each micro-batch, on the logits of its forward pass
            batch_penalty               the same, added to the micro-batch's loss
            penalty                     once, after the last micro-batch's two, added to the loss
            gradients_ready             complete gradients, all finite, before clipping
            parameters_updated          right after optimizer.step()
        end_experience
        as_finished                     around each scoring but the last
    finalize_model                      once, after the last experience

A run that was interrupted goes on with a new object, in another process::

    check_run, check_model              as above
    prepare_model                       on the model as it was first loaded
    load_state_dict                     the weights and the optimizer are as they were by then
    ...                                 whatever comes next

In the middle of an experience that is the next step: ``begin_experience`` and
``training_examples`` are not called again. So everything that a strategy keeps from one hook to the
next, whatever hook set it, is in :meth:`Strategy.state_dict`. Weights, which of them are trained,
the optimizer, the examples that ``training_examples`` chose and the global random states are the
loop's to save; what is added to a model is added in ``prepare_model``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from epi_bench.errors import foreign_code, unknown_name
from epi_bench.plugins.registry import Registry, abstract_methods
from epi_bench.strategy.facts import FAMILIES, NEEDS, TradeOff
from epi_bench.strategy.hook_names import hook_problem
from epi_bench.strategy.hooks import Experience, Step, StrategyContext

if TYPE_CHECKING:
    from pydantic import JsonValue
    from torch import Tensor, nn

    from epi_bench.model.chat.encoded_example import EncodedExample
    from epi_bench.spec.run_spec import TrainingSpec


class Strategy:
    """Plain fine-tuning; the base class of every strategy, each hook doing nothing.

    The keyword arguments of a subclass's constructor are its hyperparameters: the command line
    lists them, sets them and refuses unknown ones. Give each a type and a default.

    Attributes:
        name: As registered.
        stores_examples: Whether training data of earlier experiences is kept.
        scores_answers: Whether it asks for scores of answers to training prompts
            (``context.answer_scores``): it is told then where a task has one right answer only.
        learning_rate_factor: The run's learning rate is multiplied by it. For strategies whose
            trained parameters need another scale than full fine-tuning's (adapters).
        later_options: Options added after results of the strategy were published, with the value
            that those runs had without saying so. With that value an option is left out of a
            run's identity, so that published runs stay the same runs.
        changes_gradients: Whether ``gradients_ready`` may write into gradients. ``False`` spares
            the loop from measuring their norm once more before clipping.
        not_in_state: Names of attributes that ``state_dict`` need not return: what is made again
            when it is needed (a cache), and what no later step depends on (a clock). All others
            are compared when a run is resumed.
        acts_from: Index of the first experience in which it trains otherwise than full
            fine-tuning does. On a stream that ends before, it is full fine-tuning.
        protect_base: Text by which the base model is measured in :meth:`begin_training`: ``none``,
            ``general_text`` (the run's), ``self`` (which the model writes) or the path of a text
            file, whose content is part of the run's identity. A strategy that lets the user choose
            has an option of this name.
        refuses_adapter: Why it cannot train an adapter that the run has put on the model
            (``adapter.kind``), as what follows its name in a message; empty if it can. Then the
            model that its hooks see has an adapter, and what it trains are the adapter's weights.
        adapter_is_whole: Whether an adapter at the end, laid on the model as it was loaded, is the
            finished model. Only then a run keeps it as an adapter (``keep_model``), beside the
            model that it is merged into.
        family: By what means it keeps what was learned before; ``--strategy FAMILY`` takes all of a
            family. ``baseline``, ``averaging``, ``mask``, ``penalty``, ``rehearsal``, ``data``,
            ``optimizer``, ``adapter`` or ``other``.
        needs: What it cannot do without: ``boundaries`` (to be told where an experience ends),
            ``old weights`` (a copy of them), ``all tasks`` (from the beginning), ``own loop``
            (a second gradient of a step, or training in between). Old examples are said by
            ``stores_examples``.
        bytes_per_parameter: What it keeps beside model and optimizer, at most, at its default
            options and with float32 weights; between two steps, for each parameter of the model. A
            formula in Python of its options, ``experiences`` (finished ones, at least 2) and
            ``width`` (of the model), such as ``"8 + 4 * experiences"``; empty where it is not said.
        trade_off: The one option that trades learning for keeping, and the values worth trying.
        search_space: The settings that a search for its defaults tries, each as options; those of
            ``trade_off`` if there are none.
        evidence: What is known about when it helps, in a sentence or two; empty where nothing is.
        context: Set by the training loop before the first hook.
    """

    name: ClassVar[str] = ""
    later_options: ClassVar[Mapping[str, Any]] = {}
    changes_gradients: ClassVar[bool] = True
    stores_examples: ClassVar[bool] = False
    scores_answers: ClassVar[bool] = False
    learning_rate_factor: float = 1.0
    not_in_state: ClassVar[Collection[str]] = ()
    acts_from: int = 0
    protect_base: str = "none"
    refuses_adapter: str = ""
    adapter_is_whole: bool = True
    family: ClassVar[str] = "other"
    needs: ClassVar[Collection[str]] = ()
    bytes_per_parameter: ClassVar[str] = ""
    trade_off: ClassVar[TradeOff | None] = None
    search_space: ClassVar[Sequence[Mapping[str, Any]]] = ()
    evidence: ClassVar[str] = ""
    context: StrategyContext

    def check_run(self, training: TrainingSpec, steps: Sequence[int]) -> Sequence[str]:
        """Called before anything is trained or written: can this run do what it is meant to?

        Args:
            training: Optimizer, budget and precision of the run.
            steps: Optimizer steps of each experience.

        Returns:
            Warnings for the user, one line each.

        Raises:
            UserError: If the strategy cannot work with these settings.
        """
        return ()

    def check_model(self, model: nn.Module) -> None:
        """Called once, with the loaded model: can the strategy work with it?

        Args:
            model: A causal language model of transformers, as it was loaded; leave it as it is.

        Raises:
            UserError: If the strategy cannot work with it; nothing has been written then.
        """

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Called once, before the optimizer exists; returns the model to train."""
        return model

    def begin_training(self) -> None:
        """Called once, before the first experience, with the model as it was loaded and prepared.

        For what is measured on the base model, as a rule on text that says what it can do already:

        .. code-block:: python

            def begin_training(self):  # as if one task had been finished
                if self.protect_base != "none":
                    self._measure(self.context.base_experience(self.protect_base, 64).examples)

        Not called when a run goes on after an interruption, so what it finds out is in
        :meth:`state_dict`.
        """

    def begin_experience(self, experience: Experience) -> None:
        """Called before each experience."""

    def training_examples(self, experience: Experience) -> Sequence[EncodedExample]:
        """The examples to draw this experience's batches from; its number of steps is fixed."""
        return experience.examples

    def token_weights(self, batch: Mapping[str, Tensor], logits: Tensor) -> Tensor | None:
        """What the loss of each token of a micro-batch is multiplied by; ``None`` for 1.

        The step's loss is ``sum_t w_t nll_t / N``. ``N`` is the number of supervised tokens of the
        whole step, whatever their weights, so that a step is the same however it is cut into
        micro-batches, and weights below 1 make the loss smaller; a strategy that wants a mean
        weight of 1 gives such weights. They multiply with ``EncodedExample.weight``.

        Called without gradients, for each micro-batch, on this process's part of the step. What is
        computed from more than one token at a time depends on the micro-batch.

        Args:
            batch: ``input_ids``, ``attention_mask`` and ``labels`` (batch, length); ``labels`` is
                -100 where there is no loss. A micro-batch may have no supervised token at all.
            logits: (batch, length, vocabulary), as the model computed them for the loss.

        Returns:
            (batch, length - 1), or ``None``; number ``i`` of a row is of token ``i + 1``, which is
            predicted by ``logits[:, i]``. What stands where there is no loss does not count.

        Example:
            .. code-block:: python

                def token_weights(self, batch, logits):  # a token counts as much as it is likely
                    likely = logits[:, :-1].float().softmax(-1)
                    return likely.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        """
        return None

    def batch_penalty(self, batch: Mapping[str, Tensor], logits: Tensor) -> Tensor | None:
        """A scalar with its graph, **summed** over a micro-batch's supervised tokens, or ``None``.

        It is added to the sum of the tokens' losses and divided by the same ``N``, so that it is a
        mean over the step. For what compares the model's predictions with something else; a penalty
        on the weights belongs in :meth:`penalty`.

        Args:
            batch: As for :meth:`token_weights`.
            logits: The same, with their graph: no second forward pass is needed.
        """
        return None

    def penalty(self, model: nn.Module) -> Tensor | None:
        """A scalar added to the step's loss, with its graph; ``None`` for none.

        Called once a step, whatever micro-batches it is cut into: the weights are the same in all.
        """
        return None

    def gradients_ready(self, step: Step) -> None:
        """Gradients are complete (accumulated, unscaled) and not clipped yet."""

    def parameters_updated(self, step: Step) -> None:
        """The optimizer has just stepped; gradients are still there."""

    def stop_experience(self, step: Step) -> bool:
        """Whether the experience ends with this step, which has just been made.

        The steps that are left are not made, and :meth:`end_experience` comes next. The learning
        rates are those of an experience that is trained to its end.

        Example:
            .. code-block:: python

                def stop_experience(self, step):  # as soon as the batch is learned
                    return bool(step.loss < 0.1)
        """
        return False

    def end_experience(self, experience: Experience) -> None:
        """Called after an experience's last step, before the model is scored."""

    def as_finished(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        """The model to score in the middle of the stream: what :meth:`finalize_model` would make.

        A context manager; afterwards training goes on with the model as it was, bit for bit. To be
        overridden where the finished model may have other scores than the one that is trained.
        """
        return nullcontext(model)

    def finalize_model(self, model: nn.Module) -> nn.Module:
        """Called after the stream; returns the model to save, for example with adapters merged."""
        return model

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to go on from here, as named tensors.

        Called between two steps, too: it holds all that the strategy keeps from one hook to the
        next. The tensors may be those that it works with.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up the state that :meth:`state_dict` returned, of another object of this class.

        Called after ``prepare_model``. By then the weights are as they were, and in the middle of
        an experience ``context.optimizer`` is too.

        Args:
            state: Copies, each on the device where it was given.
        """

    def state_bytes(self) -> int:
        """Bytes the strategy keeps beside model and optimizer, now."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state_dict().values())

    def stiffness(self) -> Mapping[str, Tensor]:
        """How strongly each weight is drawn to an earlier value at this point, in any unit.

        For strategies that protect weights by degrees; ``epi-bench inspect`` shows where in the
        model it is. Asked for once an experience, after its last step.

        Returns:
            For names of ``context.model.named_parameters()`` a tensor of the parameter's shape, not
            negative; empty where nothing is drawn. They may be those that it works with.
        """
        return {}

    def diagnostics(self) -> dict[str, float]:
        """Numbers worth logging at this point, by name.

        ``achieved_ratio`` is the share of the trained weights that is held still at this point.
        """
        return {}


def _problem(item: object) -> str | None:
    if not isinstance(item, type) or not issubclass(item, Strategy):
        return "is not a strategy: derive its class from epi_bench.Strategy"
    if item.family not in FAMILIES:
        return "names an " + str(unknown_name("family", item.family, FAMILIES))
    for need in item.needs:
        if need not in NEEDS:
            return "names an " + str(unknown_name("need", need, NEEDS))
    return abstract_methods(item) or hook_problem(item, Strategy)


STRATEGIES: Registry[type[Strategy]] = Registry(
    "strategy",
    "epi_bench.strategies",
    "epi_bench.strategies",
    problem=_problem,
    reserved=lambda: ("all", *FAMILIES),
    libraries={"avalanche": "epi_bench.strategy.avalanche_plugins:avalanche_strategy"},
)


StrategyType = TypeVar("StrategyType", bound=type[Strategy])


def register_strategy(name: str) -> Callable[[StrategyType], StrategyType]:
    """Class decorator that makes a :class:`Strategy` known as ``name``."""
    return STRATEGIES.register(name)


def complete_strategy_options(name: str, options: Mapping[str, Any]) -> dict[str, JsonValue]:
    """All hyperparameters of a strategy as JSON values, the defaults filled in.

    Those of ``Strategy.later_options`` are left out where they have the value named there.

    Raises:
        UserError: If the name or an option is unknown, or a value is of a wrong type.
    """
    from epi_bench.plugins.options import complete_options

    return complete_options(f"strategy {name!r}", STRATEGIES.get(name), options)


def create_strategy(name: str, options: Mapping[str, Any]) -> Strategy:
    """The strategy of that name with its hyperparameters set.

    Raises:
        UserError: If the name or an option is unknown, or a value is of a wrong type or out of
            range.
    """
    from epi_bench.plugins.options import check_options

    cls = STRATEGIES.get(name)
    checked = check_options(f"strategy {name!r}", cls, options)
    with foreign_code(f"strategy {name!r} cannot be made"):
        return cls(**checked)

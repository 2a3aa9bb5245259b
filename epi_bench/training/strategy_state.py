"""A strategy's state on its way into a checkpoint and back, and whether anything is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from epi_bench.errors import describe_error
from epi_bench.strategy.attribute_digests import attribute_digests, unreturned_attributes
from epi_bench.training.loop_state import StateMismatchError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from epi_bench.strategy.strategy import Strategy


def strategy_state(
    strategy: Strategy, model: nn.Module
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a strategy returns, and JSON values that tell how to give it back.

    Args:
        strategy: Between two steps.
        model: The one being trained.

    Raises:
        StateMismatchError: If it returns something else than tensors.
    """
    state = dict(strategy.state_dict())
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise StateMismatchError(
                f"the state_dict of strategy {_name(strategy)} gives {type(value).__name__} for "
                f"{name!r}: give tensors, a number as torch.tensor(number), a random generator as "
                "generator_state(generator)"
            )
    values = {
        # in the strategy's order, which files of tensors do not keep: it may sum over them
        "tensors": [[name, tensor.device.type == "cpu"] for name, tensor in state.items()],
        "attributes": attribute_digests(strategy, model),
    }
    return values, state


def put_strategy_state(
    strategy: Strategy,
    model: nn.Module,
    device: torch.device,
    values: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Give a fresh strategy the state of another, each tensor on the kind of device where it was.

    Args:
        strategy: With its context set.
        model: The one being trained, with the weights of then.
        device: Of the model.
        values: As :func:`strategy_state` gave them.
        tensors: The strategy's, in any order.

    Raises:
        StateMismatchError: If the strategy is not what it was: its ``state_dict`` leaves out what
            it keeps, or ``load_state_dict`` does not take it up.
    """
    state = {
        name: tensors[name].to("cpu" if on_cpu else device, copy=True)
        for name, on_cpu in values["tensors"]
    }
    try:
        strategy.load_state_dict(state)
    except Exception as error:  # a plugin's code
        raise StateMismatchError(
            f"strategy {_name(strategy)} cannot take up its state: {describe_error(error)}"
        ) from error
    if lost := unreturned_attributes(values["attributes"], strategy, model):
        raise StateMismatchError(
            f"strategy {_name(strategy)} keeps {', '.join(lost)}, which its state_dict does not "
            "return"
        )


def _name(strategy: Strategy) -> str:
    return strategy.name or type(strategy).__name__

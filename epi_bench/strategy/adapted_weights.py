"""The weights of a model that carries a low-rank adapter: what the adapter makes of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from epi_bench.errors import UserError
from epi_bench.model.adapted import is_adapted


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """The layers of a model that carry a low-rank adapter, by their path.

    Args:
        model: Any; one without an adapter has none.

    Returns:
        ``LoraLayer`` of peft each: ``layer.get_base_layer()`` is the layer itself, and
        ``layer.get_delta_weight(adapter)`` what the adapter adds to its weight.

    Example:
        >>> adapted_layers(nn.Sequential(nn.Linear(1, 1)))
        {}
    """
    if not is_adapted(model):
        return {}
    from peft.tuners.lora import LoraLayer

    return {path: layer for path, layer in model.named_modules() if isinstance(layer, LoraLayer)}


def require_plain_adapter(strategy: str, model: nn.Module) -> None:
    """Refuse a model whose adapter is more than low-rank updates; call in ``prepare_model``.

    For strategies that scale updates or work on merged weights. A model without a low-rank adapter
    is left alone.

    Args:
        strategy: Name of the strategy, for the message.
        model: Any.

    Raises:
        UserError: If an update has lengths of its own (DoRA), or more is trained than the adapter.
    """
    layers = adapted_layers(model)
    for path, layer in layers.items():
        if any(getattr(layer, "use_dora", {}).values()):
            raise UserError(
                f"{strategy} cannot work with the adapter of {path!r}: with DoRA the lengths of "
                "its rows are trained apart; give an adapter without"
            )
    for name, parameter in model.named_parameters() if layers else ():
        if parameter.requires_grad and not any(name.startswith(f"{path}.") for path in layers):
            raise UserError(
                f"{strategy} works on the adapter alone, and {name!r} is trained beside it: freeze "
                "it, or choose another strategy"
            )


def update_factors(layer: Any) -> tuple[nn.Parameter, nn.Parameter]:
    """``A`` (rank, inputs) and ``B`` (outputs, rank) of an adapted linear layer.

    Args:
        layer: As :func:`adapted_layers` gives it, with one adapter.
    """
    (adapter,) = layer.active_adapters
    return layer.lora_A[adapter].weight, layer.lora_B[adapter].weight


@torch.no_grad()
def updated_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the adapted layers as they would be merged, in float32.

    Args:
        model: With a plain low-rank adapter, see :func:`require_plain_adapter`.

    Returns:
        For names of ``model.named_parameters()``, of the layers' own weights, what the adapter
        makes of them.
    """
    found = {}
    for path, layer in adapted_layers(model).items():
        weight = layer.get_base_layer().weight.float()
        for adapter in layer.active_adapters:
            weight = weight + layer.get_delta_weight(adapter).float()
        found[f"{path}.base_layer.weight"] = weight
    return found


def restart_updates(model: nn.Module, generator: torch.Generator) -> None:
    """Give an adapter its first values again: it changes nothing.

    Args:
        model: With a low-rank adapter.
        generator: Its seed decides what is drawn.
    """
    with torch.random.fork_rng():
        torch.manual_seed(generator.initial_seed())
        for layer in adapted_layers(model).values():
            for adapter in layer.active_adapters:
                layer.reset_lora_parameters(adapter, True)


def scaled_updates(model: nn.Module, factor: float) -> dict[str, Tensor]:
    """What makes an adapter's updates ``factor`` times as large: one factor of each, by name.

    Args:
        model: With a plain low-rank adapter, see :func:`require_plain_adapter`.
        factor: 0 makes it the base model, 1 changes nothing.

    Returns:
        For names of ``model.named_parameters()`` their new values.
    """
    found = {}
    for path, layer in adapted_layers(model).items():
        for adapter in layer.active_adapters:
            for last in (f"lora_E.{adapter}", f"lora_embedding_B.{adapter}",
                         f"lora_B.{adapter}.weight"):  # fmt: skip
                parameter = dict(layer.named_parameters()).get(last)
                if parameter is not None:
                    found[f"{path}.{last}"] = parameter.detach() * factor
                    break
    return found

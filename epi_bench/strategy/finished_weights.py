"""Strategies whose finished model has other weights than the one that is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from epi_bench.strategy.strategy import Strategy


class FinishedWeights(Strategy):
    """Base of the strategies that compute the finished weights from the trained ones.

    Averages of weights, interpolations with the base model, weights that are given back. A
    subclass says in :meth:`finished` what the weights would be if training ended now. The model is
    scored with them, trained without them, and saved with them.

    Tied weights are one parameter and are changed once.

    Example:
        >>> class Halved(FinishedWeights):
        ...     def finished(self, model):
        ...         return {name: p.detach() / 2 for name, p in trained_parameters(model).items()}
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 8.0)
        >>> with Halved().as_finished(model) as finished:
        ...     finished.weight.item()
        4.0
        >>> model.weight.item()
        8.0
    """

    family = "averaging"

    def finished(self, model: nn.Module) -> Mapping[str, Tensor]:
        """The weights of the finished model, for the parameters in which it differs.

        Args:
            model: As it is trained.

        Returns:
            For names of ``model.named_parameters()`` a tensor of the parameter's shape; it is
            rounded to the parameter's type.
        """
        raise NotImplementedError

    @contextmanager
    def as_finished(self, model: nn.Module) -> Iterator[nn.Module]:
        """The model with its finished weights; afterwards those of the training, bit for bit."""
        parameters = dict(model.named_parameters())
        trained = {}
        for name, tensor in self.finished(model).items():
            parameter = parameters[name]
            trained[name] = parameter.data
            parameter.data = tensor.to(parameter.device, parameter.dtype)
        try:
            yield model
        finally:
            for name, data in trained.items():
                parameters[name].data = data

    @torch.no_grad()
    def finalize_model(self, model: nn.Module) -> nn.Module:
        """The model with its finished weights."""
        parameters = dict(model.named_parameters())
        for name, tensor in self.finished(model).items():
            parameters[name].copy_(tensor)
        return model


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name; tied ones once, under their first name.

    Args:
        model: Any.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> _ = model.bias.requires_grad_(False)
        >>> list(trained_parameters(model))
        ['weight']
    """
    return {name: p for name, p in model.named_parameters() if p.requires_grad}

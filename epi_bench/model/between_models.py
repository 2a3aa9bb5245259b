"""A model with weights between those of the base model and its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class BetweenModels:
    """Keeps a base model's weights, and puts a later model between the two.

    ``theta(alpha) = (1 - alpha) theta_0 + alpha theta`` (WiSE-FT, Wortsman et al. 2021, arXiv
    2109.01903). With the later model's own weights merged from an adapter, it is the adapter
    multiplied by ``alpha``. Tied weights are one parameter and are changed once. Costs a copy of
    the weights, in the memory of the CPU.

    Args:
        base: As it was loaded; not kept.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[0.0, 2.0]]))
        >>> between = BetweenModels(model)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0]]))
        >>> with between.at(model, 0.25):
        ...     model.weight.tolist()
        [[0.25, 1.5]]
        >>> model.weight.tolist()
        [[1.0, 0.0]]
    """

    def __init__(self, base: nn.Module) -> None:
        self._base = {name: p.detach().cpu().clone() for name, p in base.named_parameters()}

    def fits(self, model: nn.Module) -> bool:
        """Whether a model has the base model's parameters, so that something lies between them.

        Args:
            model: A later one.
        """
        shapes = {name: p.shape for name, p in model.named_parameters()}
        return shapes == {name: tensor.shape for name, tensor in self._base.items()}

    @contextmanager
    def at(self, model: nn.Module, alpha: float) -> Iterator[None]:
        """The model with the weights in between; afterwards its own, bit for bit.

        Computed in single precision and rounded to each parameter's type. At 0 and 1 they are those
        of the base model and its own to the last bit.

        Args:
            model: One that fits.
            alpha: Share of its own weights, in [0, 1].
        """
        own: list[tuple[nn.Parameter, Tensor]] = []
        try:  # from the first weight on: Ctrl-C may come in between
            for name, parameter in model.named_parameters():
                base = self._base[name].to(parameter.device)
                mixed = torch.lerp(base.float(), parameter.detach().float(), alpha)
                own.append((parameter, parameter.data))
                parameter.data = mixed.to(parameter.dtype)
            yield
        finally:
            for parameter, data in own:
                parameter.data = data

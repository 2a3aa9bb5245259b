"""What every way of keeping importance has in common; see :mod:`importance_modes` for the ways."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from epi_bench.errors import UserError
from epi_bench.isolation.sharding import local, processes_of


class Importance(ABC):
    """The importance of every parameter.

    Args:
        parameters: By name; each is measured.
        beta: Decay, in [0, 1).
        offload: Keep the averages in the memory of the CPU, wherever the parameters are.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], beta: float, offload: bool = False
    ) -> None:
        if not 0 <= beta < 1:
            raise UserError(f"beta={beta} must lie in [0, 1)")
        self.beta = beta
        self.offload = offload
        self._parameters = parameters
        self._processes = processes_of(parameters.values())

    @property
    def values(self) -> Mapping[str, Tensor]:
        """The importance of each parameter, in its shape, float32, computed when it is read."""
        return _Lazy(list(self._parameters), self._value)

    @torch.no_grad()
    def observe(self, finite: bool | None = None) -> bool:
        """Take in the present gradients; a parameter without one counts as having gradient zero.

        Args:
            finite: Whether they are finite, where the caller knows; ``None`` measures it, which
                reads all gradients once more.

        Returns:
            Whether they were finite, in every process; otherwise nothing has been changed.
        """
        gradients = {
            name: _dense(local(parameter.grad))
            for name, parameter in self._parameters.items()
            if parameter.grad is not None
        }
        if finite is None:
            here = _all_finite(list(gradients.values()))
            finite = bool(self._processes.minimum(torch.tensor(int(here))))
        if finite:
            self._take(gradients)
        return finite

    def state_bytes(self) -> int:
        """Bytes kept."""
        return sum(t.numel() * t.element_size() for t in self._tensors().values())

    def state_dict(self) -> dict[str, Tensor]:
        """What is kept, by name."""
        return self._tensors()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up what was kept.

        Raises:
            UserError: If the state is of another model or another mode; the tensor is named.
        """
        for name, tensor in self._tensors().items():
            if name not in state:
                raise UserError(
                    f"the saved state holds no importance {name!r}: it was saved from another "
                    "model or with another importance mode"
                )
            if state[name].shape != tensor.shape or state[name].dtype != tensor.dtype:
                raise UserError(
                    f"the saved importance {name!r} has shape {tuple(state[name].shape)} and "
                    f"type {state[name].dtype}, expected are {tuple(tensor.shape)} and "
                    f"{tensor.dtype}: resume with the model and importance mode it was saved with"
                )
            tensor.copy_(state[name])

    def _zeros(self, parameter: nn.Parameter, dtype: torch.dtype) -> Tensor:
        device = torch.device("cpu") if self.offload else None
        return torch.zeros_like(local(parameter.detach()), dtype=dtype, device=device)

    @abstractmethod
    def _take(self, gradients: Mapping[str, Tensor]) -> None:
        """Update with these gradients, which are finite."""

    @abstractmethod
    def _value(self, name: str) -> Tensor:
        """The importance of one parameter, float32."""

    @abstractmethod
    def _tensors(self) -> dict[str, Tensor]:
        """What is kept, by name."""


class _Lazy(Mapping[str, Tensor]):
    """A mapping whose values are computed when they are read, so that only one exists at a time."""

    def __init__(self, names: list[str], compute: Callable[[str], Tensor]) -> None:
        self._names = dict.fromkeys(names)
        self._compute = compute

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._compute(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _dense(gradient: Tensor) -> Tensor:
    """The gradient; of a sparse one (``Embedding(sparse=True)``) all of it for this moment."""
    return gradient if gradient.layout == torch.strided else gradient.to_dense()


def _all_finite(gradients: list[Tensor]) -> bool:
    if not gradients:
        return True
    norms = [norm.float() for norm in torch._foreach_norm(gradients)]
    device = norms[0].device
    return bool(torch.isfinite(torch.stack([norm.to(device) for norm in norms])).all())

"""Moving averages of squared gradients: whole, in half the bytes, and by rows and columns."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from epi_bench.isolation.importance import Importance
from epi_bench.isolation.protected_weights import flat_view
from epi_bench.isolation.sharding import local

GROUP_SIZE = 1 << 24
"""Elements whose gradients are worked on together: bounds the temporaries to 64 MiB."""


class SquaredGradientAverage(Importance):
    """``ema``: the average itself in single precision. 4 bytes a parameter."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], beta: float, offload: bool = False
    ) -> None:
        super().__init__(parameters, beta, offload)
        self._averages = {n: self._zeros(p, torch.float32) for n, p in parameters.items()}
        self._groups = list(_groups({n: a.numel() for n, a in self._averages.items()}))

    def _take(self, gradients: Mapping[str, Tensor]) -> None:
        for names in self._groups:
            torch._foreach_mul_([self._averages[name] for name in names], self.beta)
            measured = [name for name in names if name in gradients]
            if not measured:
                continue
            averages = [self._averages[name] for name in measured]
            taken = [
                gradients[name].to(average.device, torch.float32)
                for name, average in zip(measured, averages, strict=True)
            ]
            torch._foreach_addcmul_(averages, taken, taken, value=1 - self.beta)

    def _value(self, name: str) -> Tensor:
        return self._averages[name]

    def _tensors(self) -> dict[str, Tensor]:
        return dict(self._averages)


class RoundedSquaredGradientAverage(Importance):
    """``ema_bf16``: the average in bfloat16. 2 bytes a parameter.

    A step changes the average by about the share ``1 - beta`` of itself. bfloat16 has 8 binary
    digits, so rounding to the nearest loses every change below 1/512: with beta 0.999 the average
    would never move again. Here a value is rounded up with the probability that makes the rounding
    right on average: 16 random bits are added below the last kept digit and the rest is cut off.

    The random bits are a permutation of all 65,536 values that is read from another place for each
    block and step, drawn from a generator of its own.

    Args:
        parameters: By name; each is measured.
        beta: Decay, in [0, 1).
        offload: Keep the averages in the memory of the CPU.
        seed: Of the rounding.
    """

    not_in_state: ClassVar[Collection[str]] = ("_noise",)

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        beta: float,
        offload: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(parameters, beta, offload)
        self._seed = seed
        self._steps = torch.zeros((), dtype=torch.int64)
        self._averages = {n: self._zeros(p, torch.bfloat16) for n, p in parameters.items()}
        self._noise: dict[torch.device, Tensor] = {}

    def _take(self, gradients: Mapping[str, Tensor]) -> None:
        self._steps += 1
        offsets = random.Random(f"stochastic rounding {self._seed} {int(self._steps)}")
        for name, average in self._averages.items():
            noise = self._noise_on(average.device)
            block = noise.numel() // 2
            flat = _in_memory_order(average, average)
            gradient = gradients.get(name)
            if gradient is not None:
                gradient = _in_memory_order(gradient, average)
            for start in range(0, flat.numel(), block):
                part = flat[start : start + block]
                value = part.float().mul_(self.beta)
                if gradient is not None:
                    taken = gradient[start : start + block].to(value.device, torch.float32)
                    value.addcmul_(taken, taken, value=1 - self.beta)
                offset = offsets.randrange(block)
                bits = value.view(torch.int32).add_(noise[offset : offset + part.numel()])
                part.view(torch.int16).copy_(bits.bitwise_right_shift_(16))

    def _noise_on(self, device: torch.device) -> Tensor:
        """Twice the same block of random bits, so that a block can be read from any offset."""
        if device not in self._noise:
            generator = torch.Generator().manual_seed(self._seed)
            bits = torch.randperm(1 << 16, generator=generator).to(device, torch.int32)
            copies = 2 if device.type == "cpu" else 64  # a GPU wants few large blocks
            self._noise[device] = bits.repeat(copies)
        return self._noise[device]

    def _value(self, name: str) -> Tensor:
        return self._averages[name].float()

    def _tensors(self) -> dict[str, Tensor]:
        return {**self._averages, "#steps": self._steps}

    def state_bytes(self) -> int:
        return sum(average.numel() * 2 for average in self._averages.values())


class FactoredSquaredGradientAverage(Importance):
    """``factored``: means over rows and columns, as in Adafactor (arXiv 1804.04235, algorithm 4).

    ``I_ij = R_i C_j / mean(R)`` with ``R`` and ``C`` the averages of the squared gradient over
    each row and each column, exact where the squared gradients have rank one. Tensors of more than
    two dimensions are matrices of their last dimension; vectors are kept whole.
    ``4 (1/rows + 1/columns)`` bytes a parameter: next to nothing.
    """

    not_in_state: ClassVar[Collection[str]] = ("_whole",)

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], beta: float, offload: bool = False
    ) -> None:
        super().__init__(parameters, beta, offload)
        self._kept: dict[str, Tensor] = {}
        self._whole: dict[str, tuple[Tensor, Tensor]] = {}
        for name, parameter in parameters.items():
            tensor = local(parameter.detach())
            device = torch.device("cpu") if offload else tensor.device
            if tensor.ndim < 2:
                self._kept[name] = torch.zeros(tensor.shape, device=device)
                continue
            rows = tensor.numel() // max(tensor.shape[-1], 1)
            self._kept[f"{name}#rows"] = torch.zeros(rows, device=device)
            self._kept[f"{name}#columns"] = torch.zeros(tensor.shape[-1], device=device)

    def _take(self, gradients: Mapping[str, Tensor]) -> None:
        torch._foreach_mul_(list(self._kept.values()), self.beta)
        for name, gradient in gradients.items():
            if name in self._kept:
                means = {name: gradient.float().square()}
            else:
                matrix = gradient.reshape(-1, gradient.shape[-1])
                rows, columns = matrix.shape
                norm = torch.linalg.vector_norm
                by_row = norm(matrix, dim=1, dtype=torch.float32).square_()
                by_column = norm(matrix, dim=0, dtype=torch.float32).square_()
                means = {
                    f"{name}#rows": by_row.div_(max(columns, 1)),
                    f"{name}#columns": by_column.div_(max(rows, 1)),
                }
            for key, mean in means.items():
                kept = self._kept[key]
                kept.add_(mean.to(kept.device), alpha=1 - self.beta)

    @property
    def values(self) -> Mapping[str, Tensor]:
        self._whole = self._put_together()
        return super().values

    def _value(self, name: str) -> Tensor:
        if name in self._kept:
            return self._kept[name]
        rows = self._kept[f"{name}#rows"]
        mean, columns = self._whole[name]
        if not bool(mean > 0):
            return torch.zeros(local(self._parameters[name]).shape, device=rows.device)
        product = torch.outer(rows / mean, columns)
        return product.view(local(self._parameters[name]).shape)

    def _put_together(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean over the rows and the columns of each matrix, over all processes that hold rows."""
        whole = {}
        for name in self._parameters:
            if name in self._kept:
                continue
            rows, columns = self._kept[f"{name}#rows"], self._kept[f"{name}#columns"]
            if self._processes.count == 1:
                whole[name] = (rows.mean(), columns)
                continue
            count = torch.full((1,), float(rows.numel()), device=rows.device)
            sums = torch.cat([count, rows.sum().view(1), columns * rows.numel()])
            total = self._processes.sum(sums)
            whole[name] = (total[1] / total[0], total[2:] / total[0])
        return whole

    def _tensors(self) -> dict[str, Tensor]:
        return dict(self._kept)


def _groups(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Names in their order, cut into groups of about :data:`GROUP_SIZE` elements."""
    group: list[str] = []
    filled = 0
    for name, size in sizes.items():
        if group and filled + size > GROUP_SIZE:
            yield group
            group, filled = [], 0
        group.append(name)
        filled += size
    if group:
        yield group


def _in_memory_order(tensor: Tensor, like: Tensor) -> Tensor:
    """The elements of a tensor as they lie in the memory of ``like``."""
    if tensor.stride() != like.stride():
        tensor = torch.empty_like(like, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
    return flat_view(tensor)

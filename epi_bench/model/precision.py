"""Weights that are stored in bfloat16: what is trained, and what is scored and saved.

bfloat16 has 8 significant bits. An update smaller than 1/512 of a weight is lost when the sum is
rounded to the nearest value, and at the learning rates of fine-tuning nearly all updates are that
small. So a weight is trained in one of two ways (``training.master_weights``; bytes a parameter
with AdamW):

=========== ============================================================== ======================
``float32`` the trained weights are float32, and everything that works on  4 weight, 4 gradient,
            them is exact; the forward pass runs on their bfloat16         8 moments: 16, and 2
            rounding                                                       in a forward pass
``none``    the trained weights are bfloat16; an optimizer step is         2 weight, 2 gradient,
            computed in float32 and rounded stochastically, right on       8 moments: 12
            average; moments are float32
=========== ============================================================== ======================

Either way the model that is scored and saved has the type that it was loaded with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from epi_bench.model.stochastic_rounding import HALF_PRECISION, round_stochastically

if TYPE_CHECKING:
    from torch import Tensor

    from epi_bench.spec.run_spec import MasterWeights, TrainingSpec


BLOCK = 1 << 24
"""Weights that are made float32 together: bounds each temporary to 64 MiB, larger tensors apart."""


def computes_in_bfloat16(training: TrainingSpec, dtype: str) -> bool:
    """Whether the forward pass of the training runs in mixed precision.

    Args:
        training: Autocast, and how bfloat16 weights are trained.
        dtype: Of the model.
    """
    if training.autocast == "bf16":
        return True
    return dtype == "bfloat16" and training.master_weights == "float32"


def warn_of_slow_bfloat16(training: TrainingSpec, dtype: str) -> list[str]:
    """A warning if a run on the CPU would compute in bfloat16 without instructions for it.

    Args:
        training: Autocast, and how bfloat16 weights are trained.
        dtype: Of the model.
    """
    if dtype != "bfloat16" and not computes_in_bfloat16(training, dtype):
        return []
    if not torch.backends.mkldnn.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return []
    remedy = "model.dtype to float32" if dtype == "bfloat16" else "training.autocast to none"
    return [
        "this processor has no instructions for bfloat16, so that the run takes many times as long "
        f"as in float32: set {remedy}"
    ]


class WeightPrecision:
    """The precision in which one run's weights are trained, scored and saved.

    Args:
        master_weights: How weights of half precision are trained; see the module. Other weights
            are trained as they are.
        seed: Of the stochastic rounding.
    """

    def __init__(self, master_weights: MasterWeights, seed: int) -> None:
        self._keeps_masters = master_weights == "float32"
        self._seed = seed
        self._generator: torch.Generator | None = None
        self._stored: dict[nn.Parameter, torch.dtype] = {}
        self._stored_by_name: dict[str, torch.dtype] = {}

    def take_masters(self, model: nn.Module) -> None:
        """Make the trained weights float32, if that is how they are trained.

        The parameters stay the same objects; those that are frozen keep their type. May be called
        again when other parameters are to be trained.

        Args:
            model: As the strategy prepared it.
        """
        if not self._keeps_masters:
            return
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self._take_master(name, parameter)

    @contextmanager
    def as_saved(self, model: nn.Module) -> Iterator[None]:
        """The model as it is saved and loaded again: in its own types, without mixed precision.

        Afterwards the trained weights are what they were, bit for bit. Between steps, when there
        are no gradients, this costs 2 bytes a parameter.

        Args:
            model: The one being trained, or what the strategy made of it.
        """
        mixed_precision = model.__dict__.pop("forward", None)  # accelerate puts it there
        masters: list[tuple[nn.Parameter, Tensor]] = []
        try:  # from the first weight on: Ctrl-C may come in between
            for name, parameter in model.named_parameters():
                stored = self._stored.get(parameter, self._stored_by_name.get(name))
                if stored is not None and parameter.dtype != stored:
                    masters.append((parameter, parameter.data))
                    parameter.data = parameter.data.to(stored)
            yield
        finally:
            for parameter, master in masters:
                parameter.data = master
            if mixed_precision is not None:
                model.__dict__["forward"] = mixed_precision

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """One step of the optimizer; weights of half precision are rounded stochastically.

        Works with every optimizer whose step treats each parameter by itself: a block of parameters
        at a time is made float32, stepped and rounded back, so the optimizer's state is float32.
        """
        given = [list(group["params"]) for group in optimizer.param_groups]
        stepped = [p for parameters in given for p in parameters if p.grad is not None]
        if not any(parameter.dtype in HALF_PRECISION for parameter in stepped):
            optimizer.step()
            return
        try:
            for block in _blocks(stepped):
                chosen = set(block)
                for group, parameters in zip(optimizer.param_groups, given, strict=True):
                    group["params"] = [p for p in parameters if p in chosen]
                self._step_in_float32(optimizer, block)
        finally:
            for group, parameters in zip(optimizer.param_groups, given, strict=True):
                group["params"] = parameters

    def state_dict(self) -> tuple[list[str], Tensor | None]:
        """What a later process needs to go on: the weights kept in float32, and the rounding.

        Returns:
            Names of the weights, and the state of the generator; ``None`` if nothing was rounded.
        """
        rounding = self._generator.get_state() if self._generator is not None else None
        return sorted(self._stored_by_name), rounding

    def load_state_dict(
        self, model: nn.Module, masters: Sequence[str], rounding: Tensor | None
    ) -> None:
        """Take up what :meth:`state_dict` returned; the weights themselves come afterwards.

        Args:
            model: As the strategy prepared it.
            masters: Names of the weights kept in float32.
            rounding: State of the generator.
        """
        parameters = dict(model.named_parameters())
        for name in masters:
            if (parameter := parameters.get(name)) is not None:
                self._take_master(name, parameter)
        if rounding is not None:
            device = next(iter(parameters.values())).device
            self._generator_on(device).set_state(rounding)

    def _take_master(self, name: str, parameter: nn.Parameter) -> None:
        if parameter.dtype in HALF_PRECISION:
            self._stored[parameter] = self._stored_by_name[name] = parameter.dtype
            parameter.data = parameter.data.float()

    def _step_in_float32(
        self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]
    ) -> None:
        half = [p for p in parameters if p.dtype in HALF_PRECISION]
        kept: list[tuple[nn.Parameter, Tensor, Any]] = [(p, p.data, p.grad) for p in half]
        for parameter, data, gradient in kept:
            parameter.grad = None  # a gradient must be of its parameter's type
            parameter.data = data.float()
            parameter.grad = gradient.float()
        optimizer.step()
        for parameter, data, gradient in kept:
            round_stochastically(data, parameter.data, self._generator_on(data.device))
            parameter.grad = None
            parameter.data = data
            parameter.grad = gradient

    def _generator_on(self, device: torch.device) -> torch.Generator:
        if self._generator is None:
            self._generator = torch.Generator(device).manual_seed(self._seed)
        return self._generator


def _blocks(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """The parameters in their order, cut into lists of about :data:`BLOCK` elements."""
    block: list[nn.Parameter] = []
    filled = 0
    for parameter in parameters:
        if block and filled + parameter.numel() > BLOCK:
            yield block
            block, filled = [], 0
        block.append(parameter)
        filled += parameter.numel()
    if block:
        yield block

"""Fisher information in the memory that one can spare for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from epi_bench.errors import UserError
from epi_bench.isolation.optimizer_moment import has_second_moment
from epi_bench.strategy.fisher import Labels, example_gradients
from epi_bench.strategy.quadratic_pull import full_importance, weighted_square

if TYPE_CHECKING:
    from epi_bench.model.chat.encoded_example import EncodedExample
    from epi_bench.strategy.hooks import StrategyContext

FisherForm = Literal["diagonal", "diagonal_bf16", "factored"]
"""How Fisher information is kept; see :class:`FisherInformation`."""

NAMES = {1: ("fisher",), 2: ("rows", "columns")}
"""Of the tensors of a parameter in a saved state, by how many there are."""


class FisherInformation:
    """How much each weight matters, in one of three forms.

    ``diagonal``: a single-precision number a weight; 4 bytes a parameter.

    ``diagonal_bf16``: summed in single precision, then rounded to bfloat16, whose range is that of
    single precision (Fisher information spans ten powers of ten, too many for float16); 2 bytes.

    ``factored``: of a matrix the mean of each row and of each column, as in Adafactor (Shazeer and
    Stern 2018, arXiv 1804.04235): ``F_ij = row_i column_j / mean(row)``, which keeps the sum of
    each row and column and is exact for rank one. All but nothing; other tensors are kept in full.

    Args:
        parts: For each parameter one tensor of its shape, or two, its rows and columns.

    Attributes:
        parts: As given.

    Example:
        >>> fisher = FisherInformation({"weight": (torch.tensor([1.0, 3.0]),)})
        >>> fisher.decayed_and(0.5, fisher).parts["weight"][0].tolist()
        [1.5, 4.5]
    """

    def __init__(self, parts: Mapping[str, tuple[Tensor, ...]]) -> None:
        self.parts = dict(parts)

    @classmethod
    def measured(
        cls,
        context: StrategyContext,
        parameters: Mapping[str, nn.Parameter],
        examples: Sequence[EncodedExample],
        form: FisherForm = "diagonal",
        *,
        labels: Labels = "data",
        device: torch.device | None = None,
    ) -> FisherInformation:
        """``mean over examples of g^2`` at the present weights; see :func:`diagonal_fisher`.

        Args:
            context: Of the strategy.
            parameters: What is measured, by name.
            examples: At least one.
            form: How it is kept.
            labels: As for :func:`example_gradients`.
            device: Where it is kept; where the parameters are if left out.
        """
        parts = {name: _empty(p, form, device or p.device) for name, p in parameters.items()}
        share = 1 / len(examples)
        for name, gradient in example_gradients(context, parameters, examples, labels):
            first, *columns = parts[name]
            if not columns:
                values = gradient.to(first.device)
                first.addcmul_(values, values, value=share)
            else:
                squares = gradient.square().flatten(1)
                first.add_(squares.mean(1).to(first.device), alpha=share)
                columns[0].add_(squares.mean(0).to(first.device), alpha=share)
        if form == "diagonal_bf16":
            parts = {name: (whole.bfloat16(),) for name, (whole,) in parts.items()}
        return cls(parts)

    @classmethod
    def of_optimizer(
        cls,
        optimizer: torch.optim.Optimizer | None,
        parameters: Mapping[str, nn.Parameter],
        device: torch.device | None = None,
    ) -> FisherInformation:
        """Adam's second moment in its place, which costs no pass over the data.

        ``v / (1 - beta2^t)``, the average of the squared gradients of the last steps: of batches
        and not of examples, along the way and not at its end, and after clipping. Corrected for its
        bias, so that it does not depend on how long the experience was.

        Args:
            optimizer: Adam or a relative.
            parameters: By name; those that it has not stepped are left out.
            device: Where it is kept; where the optimizer keeps it if left out.

        Raises:
            UserError: If the optimizer keeps no second moment.
        """
        optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
        if optimizer is None or not has_second_moment(optimizer):
            kind = "no optimizer" if optimizer is None else type(optimizer).__name__
            raise UserError(
                f"fisher=optimizer reads Adam's second moment, and this training has {kind}: train "
                "with AdamW, or choose fisher diagonal, diagonal_bf16 or factored"
            )
        groups = {p: group for group in optimizer.param_groups for p in group["params"]}
        parts: dict[str, tuple[Tensor, ...]] = {}
        for name, parameter in parameters.items():
            state = optimizer.state.get(parameter, {})
            if "exp_avg_sq" in state:
                correction = 1 - groups[parameter]["betas"][1] ** float(state["step"])
                moment = state["exp_avg_sq"].detach()
                parts[name] = (moment.to(device or moment.device).float() / correction,)
        return cls(parts)

    def decayed_and(self, decay: float, new: FisherInformation) -> FisherInformation:
        """``decay * self + new``, tensor by tensor, for the parameters of ``new``.

        Args:
            decay: Of what is here, in [0, 1].
            new: Of the same form.
        """
        return FisherInformation(
            {
                name: tuple(
                    (decay * old.float() + part.float()).to(part.dtype)
                    for old, part in zip(self.parts[name], parts, strict=True)
                )
                if name in self.parts
                else parts
                for name, parts in new.parts.items()
            }
        )

    def with_unit_mean(self, shapes: Mapping[str, torch.Size]) -> FisherInformation:
        """Divided by the mean over all weights; all zero stays all zero.

        Args:
            shapes: Of the parameters, by name.
        """
        sizes = {name: shapes[name].numel() for name in self.parts}
        total = sum(
            float(parts[0].double().mean()) * sizes[name] for name, parts in self.parts.items()
        )
        scale = sum(sizes.values()) / total if total > 0 else 0.0
        return FisherInformation(
            {
                name: tuple((part.float() * scale).to(part.dtype) for part in parts)
                for name, parts in self.parts.items()
            }
        )

    def values(self, name: str, shape: torch.Size) -> Tensor:
        """The information of one parameter as a single-precision tensor of its shape.

        Args:
            name: Of the parameter.
            shape: Of the parameter.
        """
        return full_importance(shape, *self.parts[name]).float()

    def pull(self, name: str, weight: Tensor, anchor: Tensor | None) -> Tensor:
        """``sum F (theta - theta*)^2`` of one parameter, with its graph.

        Args:
            name: Of the parameter.
            weight: The parameter, or what stands in its place.
            anchor: Where it is drawn to; ``None`` for zero.
        """
        return weighted_square(weight, anchor, *self.parts[name])

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors, in the order of the parameters."""
        return {
            f"{kind}.{name}": part
            for name, parts in self.parts.items()
            for kind, part in zip(NAMES[len(parts)], parts, strict=True)
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], device: torch.device) -> FisherInformation:
        """What :meth:`state_dict` returned.

        Args:
            state: Copied.
            device: Where it is kept.
        """
        parts: dict[str, tuple[Tensor, ...]] = {}
        for key, tensor in state.items():
            _, name = key.split(".", 1)
            parts[name] = (*parts.get(name, ()), tensor.to(device, copy=True))
        return cls(parts)


def _empty(parameter: Tensor, form: FisherForm, device: torch.device) -> tuple[Tensor, ...]:
    """Zeros to sum into."""
    if form != "factored" or parameter.ndim < 2:
        return (torch.zeros_like(parameter, dtype=torch.float32, device=device),)
    rows, columns = parameter.shape[0], parameter[0].numel()
    return tuple(torch.zeros(size, device=device) for size in (rows, columns))

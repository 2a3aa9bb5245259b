"""Strategies that merge what the experiences changed, each a task vector on the base model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from epi_bench.errors import UserError
from epi_bench.isolation.saved_state import state_part
from epi_bench.strategy.adapted_weights import (
    adapted_layers,
    require_plain_adapter,
    restart_updates,
    scaled_updates,
    updated_weights,
)
from epi_bench.strategy.finished_weights import FinishedWeights, trained_parameters
from epi_bench.strategy.hooks import Experience
from epi_bench.strategy.scores import top_share

Vectors = Sequence[Mapping[str, Tensor]]
"""What each experience changed, by the weight's name, in float32."""


class TaskVectors(FinishedWeights):
    """Base of the strategies whose finished model is ``theta_0 + merge(tau_1, ..., tau_k)``.

    ``tau_k`` is what experience k changed. A subclass says in :meth:`merged` what becomes of them.
    The merged model is the one that is scored and saved, after every experience; what is trained
    next is another matter (``from_base``). In the middle of an experience what it has changed so
    far counts as its vector.

    Of a model with a low-rank adapter the vectors are of the weights that the adapter is merged
    into, so that each experience has its own adapter and the merge is of their products ``B A``,
    not of the factors.

    Keeps the base model's weights and a vector of each experience.

    Args:
        scale: The merged vector is multiplied by it, at least 0; 0 is the base model.
        from_base: Whether each experience is trained from the base model; otherwise from where the
            experience before ended, and its vector is what it added.

    Example:
        >>> class Last(TaskVectors):
        ...     def merged(self, vectors):
        ...         return {name: vectors[-1][name] for name in vectors[0]}
        >>> Last(scale=1.0, from_base=True).scale
        1.0
    """

    needs = ("boundaries", "old weights")
    bytes_per_parameter = "4 + 4 * experiences + (0 if from_base else 4)"
    adapter_is_whole = False  # a sum of adapters has a higher rank

    def __init__(self, scale: float, from_base: bool) -> None:
        if not scale >= 0:
            raise UserError(f"{self.name}: scale={scale} must be at least 0")
        self.scale = scale
        self.from_base = from_base
        self._base: dict[str, Tensor] = {}
        self._start: dict[str, Tensor] = {}
        self._vectors: list[dict[str, Tensor]] = []

    def merged(self, vectors: Vectors) -> Mapping[str, Tensor]:
        """What the experiences changed together, before it is scaled.

        Args:
            vectors: One of each experience, in order; all of the same names and shapes.
        """
        raise NotImplementedError

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Keep the base model's weights."""
        require_plain_adapter(self.name, model)
        parameters = dict(model.named_parameters())
        under_adapter = [f"{path}.base_layer.weight" for path in adapted_layers(model)]
        names = under_adapter or trained_parameters(model)
        self._base = {name: parameters[name].detach().clone() for name in names}
        return model

    @torch.no_grad()
    def finished(self, model: nn.Module) -> Mapping[str, Tensor]:
        """The base model and the merged vectors."""
        merged = self.merged([*self._vectors, self._changed(model)])
        found = {
            name: base.float() + self.scale * merged[name] for name, base in self._base.items()
        }
        return {**found, **scaled_updates(model, 0.0)}

    @torch.no_grad()
    def end_experience(self, experience: Experience) -> None:
        """Keep what it changed; go back to the base model, if the next one begins there."""
        model = self.context.model
        self._vectors.append(self._changed(model))
        if not self.from_base:
            self._start = {name: tensor.clone() for name, tensor in self._weights(model).items()}
        elif adapted_layers(model):
            purpose = f"adapter after experience {experience.index}"
            restart_updates(model, self.context.torch_generator(purpose))
        else:
            parameters = dict(model.named_parameters())
            for name, base in self._base.items():
                parameters[name].copy_(base)

    def state_dict(self) -> dict[str, Tensor]:
        """The base model, where the experience under way began, and all vectors."""
        state = {f"base.{name}": tensor for name, tensor in self._base.items()}
        state |= {f"start.{name}": tensor for name, tensor in self._start.items()}
        for number, vector in enumerate(self._vectors):
            state |= {f"vector.{number}.{name}": tensor for name, tensor in vector.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take all of it up."""
        self._base = {name: t.clone() for name, t in state_part(state, "base.").items()}
        self._start = {name: t.clone() for name, t in state_part(state, "start.").items()}
        self._vectors = []
        while vector := state_part(state, f"vector.{len(self._vectors)}."):
            self._vectors.append({name: tensor.clone() for name, tensor in vector.items()})

    def _weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights as training has them now, in float32."""
        if adapted_layers(model):
            return updated_weights(model)
        parameters = dict(model.named_parameters())
        return {name: parameters[name].detach().float() for name in self._base}

    def _changed(self, model: nn.Module) -> dict[str, Tensor]:
        """What the experience under way has changed so far."""
        start = self._start or self._base
        return {name: now - start[name].float() for name, now in self._weights(model).items()}


def trimmed(
    vector: Mapping[str, Tensor], density: float, scope: Literal["tensor", "model"] = "tensor"
) -> dict[str, Tensor]:
    """A task vector without its small entries.

    >>> trimmed({"w": torch.tensor([3.0, -1.0, 0.5, -2.0])}, 0.5)["w"].tolist()
    [3.0, 0.0, 0.0, -2.0]

    Args:
        vector: By the weight's name.
        density: Share of the entries that is kept, the largest by their absolute values, in
            (0, 1].
        scope: Whether the share is of each tensor or of the whole model.
    """
    if density == 1:
        return dict(vector)
    sizes = {name: tensor.abs() for name, tensor in vector.items()}
    if scope == "model":
        kept = top_share(sizes, density)
    else:
        kept = {name: top_share({name: t}, density)[name] for name, t in sizes.items()}
    return {name: torch.where(kept[name], tensor, 0.0) for name, tensor in vector.items()}


def elected_mean(
    tensors: Sequence[Tensor], method: Literal["total", "frequency"] = "total"
) -> Tensor:
    """The mean of those values that agree with the sign elected for their entry.

    >>> tensors = [torch.tensor(t) for t in ([3.0, -1.0], [1.0, -2.0], [-4.0, 0.0])]
    >>> elected_mean(tensors).tolist()  # signs + and -; (3 + 1) / 2 and (-1 - 2) / 2
    [2.0, -1.5]

    Args:
        tensors: Of one shape; zeros agree with nothing.
        method: ``total``: the sign of the sum; ``frequency``: that of the most values. A tie is +.
    """
    votes = sum(t if method == "total" else t.sign() for t in tensors)
    elected = torch.where(torch.as_tensor(votes) >= 0, 1.0, -1.0)
    agreeing = [t.sign() == elected for t in tensors]
    total = sum(t * mask for t, mask in zip(tensors, agreeing, strict=True))
    count = sum(mask.float() for mask in agreeing)
    return torch.as_tensor(total) / torch.as_tensor(count).clamp(min=1)

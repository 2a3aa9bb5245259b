"""The isolation engine: from gradients to weights that stay where they are."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import get_args

import torch
from torch import Tensor, nn

from epi_bench.errors import UserError
from epi_bench.isolation.importance_modes import ImportanceMode, create_importance
from epi_bench.isolation.mask_statistics import MaskHistory, pack_bits, unpack_bits
from epi_bench.isolation.normalisation import Normalisation
from epi_bench.isolation.optimizer_moment import OptimizerMoment
from epi_bench.isolation.protected_weights import ProtectedWeights, flat_view, memory_order
from epi_bench.isolation.saved_state import state_part
from epi_bench.isolation.schedule_free import further_weights, is_schedule_free
from epi_bench.isolation.selection import select
from epi_bench.isolation.sharding import local, processes_of


class Isolation:
    """Measures importance, chooses the protected share by one global threshold, and holds it.

    Call :meth:`observe` when gradients are complete, :meth:`restore` right after each optimizer
    step and :meth:`refresh` whenever the mask shall move. Between two refreshes a protected weight
    is bit-identical, for every optimizer. Where other code may write to weights between two steps
    (weights loaded back, a model that is cast), call :meth:`take_up_changes` before each step: then
    what it wrote is held, and not what was there before.

    Parameters that FSDP2 has sharded (``DTensor``) are held in parts, each process its own; only
    counts, histograms, extremes and sums cross processes, and the mask is that of one process.
    Then all processes must make the same calls in the same order. Under data parallelism without
    shards, equal gradients give equal masks, and nothing has to be exchanged.

    Args:
        named_parameters: Names and parameters; frozen ones are ignored, tied ones taken once.
        ratio: Share of all trained weights that is protected, in [0, 1).
        normalisation: Within each tensor: ``min_max``, ``mean`` or ``rank``.
        beta: Decay of the importance, in [0, 1).
        largest: Protect the most important weights; ``False`` protects the least important.
        importance: How importance is kept, with its bytes a parameter: ``ema`` (4), ``ema_bf16``
            (2), ``factored`` (about 0), ``optimizer`` (0; Adam's own second moment is read, give
            the optimizer too). See :mod:`epi_bench.isolation.importance_modes`.
        offload: Keep the importance in the memory of the CPU instead of beside the parameters.
        optimizer: The optimizer that ``importance="optimizer"`` reads; it may also be given later
            with :meth:`attach_optimizer`.
        seed: Of the stochastic rounding of ``ema_bf16``.

    Attributes:
        parameters: Those that are measured, by name.
        processes: Over which they are sharded; one if they are not.

    Raises:
        UserError: If a value is out of range, nothing is trainable, or the optimizer keeps no
            second moment that could be read.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        ratio: float = 0.5,
        normalisation: Normalisation = "rank",
        beta: float = 0.99,
        largest: bool = True,
        importance: ImportanceMode = "ema",
        offload: bool = False,
        optimizer: torch.optim.Optimizer | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 <= ratio < 1:
            raise UserError(f"ratio={ratio} must lie in [0, 1)")
        if normalisation not in get_args(Normalisation):
            raise UserError(f"normalisation={normalisation!r}: choose min_max, mean or rank")
        self.ratio = ratio
        self.normalisation = normalisation
        self.largest = largest
        self.parameters = _trained_once(named_parameters)
        if not self.parameters:
            raise UserError("the model has no trainable parameters to protect")
        self.size = sum(parameter.numel() for parameter in self.parameters.values())
        self.processes = processes_of(self.parameters.values())
        self.importance = create_importance(importance, self.parameters, beta, offload, seed)
        self._schedule_free: weakref.ref[torch.optim.Optimizer] | None = None
        if optimizer is not None:
            self.attach_optimizer(optimizer)
        self._weights = ProtectedWeights(self.parameters)
        sizes = {name: parameter.numel() for name, parameter in self.parameters.items()}
        self._history = MaskHistory(sizes, self.processes)

    @property
    def target_count(self) -> int:
        """How many weights are to be protected."""
        return round(self.ratio * self.size)

    def attach_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Say which optimizer steps the parameters.

        ``importance="optimizer"`` reads it, and of a schedule-free optimizer the further weights
        are held too, so that a protected weight is the same in training, evaluation and files.

        Raises:
            UserError: If its second moment is to be read and it keeps none.
        """
        free = is_schedule_free(optimizer)
        self._schedule_free = weakref.ref(optimizer) if free else None
        if isinstance(self.importance, OptimizerMoment):
            self.importance.attach(optimizer)

    def observe(self, finite: bool | None = None) -> bool:
        """Take the present gradients into the importance.

        Args:
            finite: Whether all gradients are finite, where the caller knows (from the norm that
                clipping computes); ``None`` finds out, at the price of reading them once more.

        Returns:
            Whether they were finite; otherwise the importance has not been changed.
        """
        return self.importance.observe(finite)

    def restore(self) -> None:
        """Write the protected values back; call right after ``optimizer.step()``.

        Raises:
            UserError: If a parameter was cast, moved or laid out otherwise within the step.
        """
        self._weights.restore()
        self._hold_further_weights()

    def take_up_changes(self) -> int:
        """Hold what other code has written to protected weights; call before an optimizer step.

        Costs next to nothing where nothing was written. A parameter that was cast or moved to
        another device is held at its values there. Writes that go past a tensor's count of them
        (through ``.data``) and touch only few weights may be missed.

        Returns:
            How many protected weights were changed since the last :meth:`restore` or refresh, in
            this process.

        Raises:
            UserError: If a parameter's shape or its order in memory (``channels_last``) changed.
        """
        return self._weights.take_up_changes()

    def _hold_further_weights(self) -> None:
        optimizer = self._schedule_free() if self._schedule_free is not None else None
        if optimizer is not None:
            for sequence in further_weights(optimizer, self.parameters):
                self._weights.write_to(sequence)

    def refresh(self) -> None:
        """Move the mask to what is important now.

        Raises:
            UserError: If the optimizer's second moment is to be read and there is none.
        """
        self.refresh_from(self.importance.values)

    @torch.no_grad()
    def refresh_from(self, scores: Mapping[str, Tensor]) -> None:
        """Move the mask to the top ``ratio`` of these scores.

        Args:
            scores: For each parameter a tensor of its shape (of a sharded one, of the shape of
                this process's part), not negative, normalised here.
        """
        masks = select(
            list(self.parameters),
            lambda name: self._flat_scores(name, scores[name]),
            self.target_count,
            self.normalisation,
            self.largest,
            self.processes,
        )
        self._weights.protect(masks)
        self._hold_further_weights()
        self._history.add(masks)

    @torch.no_grad()
    def protect(self, masks: Mapping[str, Tensor]) -> None:
        """Protect weights that were chosen elsewhere, at their present values, and no others.

        Args:
            masks: For each parameter booleans of its shape (of a sharded one, of the shape of this
                process's part); of one that is left out nothing is protected.
        """
        flat = {}
        for name, parameter in self.parameters.items():
            like = local(parameter.detach())
            chosen = torch.zeros_like(like, dtype=torch.bool)  # in the parameter's order of memory
            if name in masks:
                chosen.copy_(masks[name])
            flat[name] = flat_view(chosen)
        self._weights.protect(flat)
        self._hold_further_weights()
        self._history.add(flat)

    def release(self) -> None:
        """Protect nothing."""
        self._weights.protect({})

    def end_experience(self) -> None:
        """Keep the present mask for comparison: the statistics tell its overlap with earlier ones.

        Costs up to one bit a parameter; does nothing before the first refresh.
        """
        self._history.end_experience()

    @property
    def masks(self) -> dict[str, Tensor]:
        """For each parameter, or this process's part of it, a flat mask in the order of memory."""
        return self._weights.masks()

    @property
    def protected_count(self) -> int:
        """How many weights are protected now, over all processes."""
        here = sum(int(mask.count_nonzero()) for mask in self.masks.values())
        return int(self.processes.sum(torch.tensor(here)))

    def statistics(self) -> dict[str, float]:
        """Protected share, whole and by kind of module, and how far the mask moved."""
        return self._history.statistics()

    def state_bytes(self) -> int:
        """Bytes of importance, mask, saved values, and the first and last mask."""
        return self.importance.state_bytes() + self._weights.bytes() + self._history.bytes()

    def state_dict(self) -> dict[str, Tensor]:
        """Importance, mask and first mask; the protected values are those in the model.

        Of sharded parameters it is this process's part: each process saves its own, and as many
        processes resume.
        """
        state = {f"importance.{k}": v for k, v in self.importance.state_dict().items()}
        state |= {f"shape.{n}": torch.tensor(local(p).shape) for n, p in self.parameters.items()}
        state |= {
            f"order.{n}": torch.tensor(memory_order(local(p)), dtype=torch.int64)
            for n, p in self.parameters.items()
        }
        state |= {f"mask.{name}": pack_bits(mask) for name, mask in self.masks.items()}
        state |= {f"history.{name}": bits for name, bits in self._history.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up a state; the model must hold the weights it was saved with.

        Raises:
            UserError: If the state was saved from other parameters, in another memory format or
                with another importance mode; the parameter is named.
        """
        self.check_state(state)
        self.importance.load_state_dict(state_part(state, "importance."))
        packed = state_part(state, "mask.")
        parts = {name: local(parameter) for name, parameter in self.parameters.items()}
        self._weights.protect(
            {
                name: unpack_bits(packed[name], part.numel()).to(part.device)
                for name, part in parts.items()
            }
        )
        self._history.load_state_dict(state_part(state, "history."))

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """Whether a state is one of these parameters; nothing is changed.

        Raises:
            UserError: If it was saved from other parameters or in another memory format.
        """
        self._check_shapes(state_part(state, "shape."))
        self._check_orders(state_part(state, "order."))

    def _check_orders(self, saved: Mapping[str, Tensor]) -> None:
        """Masks are saved in the order of memory; states of earlier versions do not hold it."""
        for name, order in saved.items():
            if tuple(order.tolist()) != memory_order(local(self.parameters[name])):
                raise UserError(
                    f"parameter {name!r} lies in memory in another order than when the state was "
                    "saved: give the model the same memory format (such as channels_last) first"
                )

    def _check_shapes(self, saved: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            if name not in saved:
                raise UserError(
                    f"the saved state knows no parameter {name!r}: resume with the model and the "
                    "trainable parameters that it was saved with"
                )
            shape = tuple(local(parameter).shape)
            if tuple(saved[name].tolist()) != shape:
                raise UserError(
                    f"parameter {name!r} has shape {shape} here, but the saved state "
                    f"is for {tuple(saved[name].tolist())}: resume with the model it was saved with"
                )
        extra = sorted(set(saved) - set(self.parameters))
        if extra:
            raise UserError(
                f"the saved state has a parameter {extra[0]!r} that is not trained now: resume "
                "with the model and the trainable parameters that it was saved with"
            )

    def _flat_scores(self, name: str, scores: Tensor) -> Tensor:
        """Scores in the parameter's order of memory."""
        parameter, scores = local(self.parameters[name]), scores.detach()
        if scores.stride() == parameter.stride() and scores.device == parameter.device:
            return flat_view(scores)
        return flat_view(torch.empty_like(parameter, dtype=torch.float32).copy_(scores))


def _trained_once(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
) -> dict[str, nn.Parameter]:
    """The trainable parameters by their first name."""
    seen: set[int] = set()
    kept = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad and id(parameter) not in seen:
            seen.add(id(parameter))
            kept[name] = parameter
    return kept

"""Why a run failed, in one line that says what to do about it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from epi_bench.errors import describe_error

if TYPE_CHECKING:
    from torch import nn

    from epi_bench.spec.run_spec import RunSpec

_SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
"""Parts of the messages of allocators, in small letters."""

_STATES = {"adamw": 2, "sgd": 1, "adafactor": 0}
"""Values of the optimizer's state for each trained weight; Adafactor has a few for a matrix."""


def explain_failure(error: BaseException, spec: RunSpec, model: nn.Module) -> str:
    """An error as a record keeps it; where memory ran out, with the sizes and what to lower.

    Args:
        error: What ended the run.
        spec: The run.
        model: As it was loaded, or as it is now.
    """
    described = describe_error(error)
    if not ran_out_of_memory(error):
        return described
    return (
        f"out of memory: {_sizes(spec, model)}; lower training.batch_size (and raise "
        "training.accumulation by the same factor), data.max_length or evaluation.batch_size, or "
        f"set training.gradient_checkpointing ({described})"
    )


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, on the CPU or on a GPU."""
    if error is None:
        return False
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    allocator = isinstance(error, RuntimeError) and any(
        sign in str(error).lower() for sign in _SIGNS
    )
    return allocator or ran_out_of_memory(error.__cause__)


def _sizes(spec: RunSpec, model: nn.Module) -> str:
    training = spec.training
    parameters = list(model.parameters())
    weights = sum(p.numel() * p.element_size() for p in parameters)
    trained = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    states = trained * _STATES[training.optimizer]
    return (
        f"micro-batches of {training.batch_size} x {spec.data.max_length} tokens, scoring "
        f"{spec.evaluation.batch_size} at once, the model takes {_shown(weights)}, its gradients "
        f"{_shown(trained)}, the state of {training.optimizer} {_shown(states)}"
    )


def _shown(size: int) -> str:
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.1f} MB"

"""A witness that protected weights have not moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from epi_bench.isolation.engine import Isolation


class Witness:
    """Finds protected weights that move: compares them before and after each step, bit for bit.

    Args:
        isolation: The engine that protects them; call :meth:`check` after each of its steps.

    Attributes:
        checked: Protected weights compared so far.
        steps: Steps compared so far.
    """

    def __init__(self, isolation: Isolation) -> None:
        self.isolation = isolation
        self.checked = 0
        self.steps = 0
        self.remember()

    def remember(self) -> None:
        """Take the present masks and weights as those before the next step."""
        self.masks = self.isolation.masks
        self.before = {name: stored_bits(p) for name, p in self.isolation.parameters.items()}

    def check(self) -> None:
        """Compare; call after a step.

        Raises:
            AssertionError: If a weight that was protected during the step has changed, or hardly
                any of the others has.
        """
        moved = free = 0
        for name, parameter in self.isolation.parameters.items():
            changed, mask = stored_bits(parameter) != self.before[name], self.masks[name]
            if bool(changed[mask].any()):
                raise AssertionError(f"protected weights of {name} moved")
            self.checked += int(mask.sum())
            moved += int(changed[~mask].sum())
            free += int((~mask).sum())
        if moved <= 0.2 * free:
            raise AssertionError("training did not move what is free")
        self.steps += 1
        self.remember()


def stored_bits(tensor: Tensor) -> Tensor:
    """A tensor's bits as integers, so that NaN equals itself and -0.0 differs from 0.0."""
    import torch

    integer = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
    return tensor.detach().clone().view(integer).view(-1)

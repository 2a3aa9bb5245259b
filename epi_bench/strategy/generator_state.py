"""The state of a random generator as a tensor, for what a strategy returns from ``state_dict``."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    Generator = random.Random | torch.Generator | np.random.Generator
    """What draws random numbers."""


def generator_state(generator: Generator) -> Tensor:
    """Where a random generator stands, as a tensor of bytes on the CPU.

    A strategy that keeps a generator from one hook to the next returns this in ``state_dict``, so
    that a run that is resumed draws what the interrupted one would have drawn. One that asks for
    ``self.context.generator(PURPOSE)`` in the hook that draws keeps nothing, and needs none of it.

    .. code-block:: python

        def begin_experience(self, experience):
            self.draws = self.context.generator(f"dropped layers of {experience.index}")

        def state_dict(self):
            return {"draws": generator_state(self.draws)}

        def load_state_dict(self, state):
            self.draws = random.Random()
            set_generator_state(self.draws, state["draws"])

    Args:
        generator: Of ``random``, torch or NumPy.

    Returns:
        About 7,000 bytes for ``random.Random``, 5,056 for torch on the CPU, 200 for NumPy's
        default.
    """
    import torch

    if isinstance(generator, torch.Generator):
        return generator.get_state().clone()
    state: Any
    if isinstance(generator, random.Random):
        state = generator.getstate()
    else:
        state = generator.bit_generator.state
    text = json.dumps(state, default=lambda array: array.tolist())  # of NumPy's older generators
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).clone()


def set_generator_state(generator: Generator, state: Tensor) -> None:
    """Put a random generator where another one of its kind stood.

    Args:
        generator: Changed in place.
        state: As :func:`generator_state` returned it.

    >>> first, second = random.Random(1), random.Random(2)
    >>> _ = first.random()
    >>> set_generator_state(second, generator_state(first))
    >>> first.random() == second.random()
    True
    """
    import torch

    if isinstance(generator, torch.Generator):
        generator.set_state(state.cpu())
        return
    saved = json.loads(bytes(state.cpu().tolist()))
    if isinstance(generator, random.Random):
        version, internal, gauss = saved
        generator.setstate((version, tuple(internal), gauss))
    else:
        generator.bit_generator.state = saved

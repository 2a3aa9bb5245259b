"""EPI in training code that is not this package's: three ways in, one mechanism.

* :func:`protect` for any ``torch.optim`` optimizer,
* :class:`EPICallback` for ``transformers.Trainer`` and TRL's trainers,
* :class:`EPIPlugin` for avalanche's supervised strategies.

The two classes subclass what their libraries define, so each is imported when it is first used.
All three act by ``step_hooks`` around the optimizer's step and hold a ``Protection``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from epi_bench.bridges.avalanche import EPIPlugin
    from epi_bench.bridges.protection import Protection, protect
    from epi_bench.bridges.trainer import EPICallback

_HOME = {
    "EPIPlugin": "avalanche",
    "Protection": "protection",
    "protect": "protection",
    "EPICallback": "trainer",
}

__all__ = ["EPICallback", "EPIPlugin", "Protection", "protect"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"epi_bench.bridges.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])

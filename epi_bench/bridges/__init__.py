"""EPI, and the other strategies, in training code that is not this package's.

* :func:`with_strategy` for any strategy in ``transformers.Trainer`` and TRL's trainers,
* :func:`protect` for any ``torch.optim`` optimizer,
* :class:`EPICallback` for ``transformers.Trainer`` and TRL's trainers,
* :class:`EPIPlugin` for avalanche's supervised strategies,
* :func:`to_avalanche` for streams of texts as benchmarks of avalanche.

What subclasses another library's class is imported when it is first used. But for the first, all
act by ``step_hooks`` around the optimizer's step.
"""

from __future__ import annotations

from pathlib import Path

from epi_bench.plugins.stub_names import attach_stubs, names_in_stub

_STUB = Path(__file__).with_suffix(".pyi")

__all__ = sorted(names_in_stub(_STUB))
__getattr__, __dir__ = attach_stubs(__name__, _STUB)

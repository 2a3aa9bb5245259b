"""EPI for avalanche's supervised strategies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from epi_bench.bridges.protection import Protection
from epi_bench.errors import UserError
from epi_bench.isolation.normalisation import Normalisation


class EPIPlugin(SupervisedPlugin):
    """Evolving Parameter Isolation (EPI, arXiv 2604.14010) for an avalanche strategy::

        strategy = Naive(model=model, optimizer=optimizer, plugins=[EPIPlugin(ratio=0.3)], ...)

    Works with every strategy that builds on ``SupervisedTemplate``, together with other plugins:
    the importance sees the gradients as they are before the update, after plugins such as A-GEM
    have changed them in ``after_backward``. Importance, mask and the count of steps go on from
    experience to experience. Where an experience changes a parameter's shape (a head that grows) or
    adds one, only that parameter is measured again, and protected from the next refresh on.

    Args:
        ratio: Share of all trained weights that is protected, in [0, 1); 0 protects nothing.
        interval: Optimizer steps between two refreshes, at least 1.
        warmup: Optimizer steps before the first refresh, at least 0.
        beta: Decay of the importance, in [0, 1).
        normalisation: Of the importance within each tensor: ``min_max``, ``mean`` or ``rank``.
        **isolation: Further keyword arguments of :class:`epi_bench.Isolation`, such as
            ``importance="optimizer"``, which keeps nothing beside Adam's own second moment.

    Attributes:
        protection: The :class:`Protection`, from the first experience on.
    """

    def __init__(
        self,
        ratio: float = 0.5,
        interval: int = 20,
        warmup: int = 20,
        beta: float = 0.999,
        normalisation: Normalisation = "mean",
        **isolation: Any,
    ) -> None:
        super().__init__()
        self._options: dict[str, Any] = {
            "ratio": ratio,
            "interval": interval,
            "warmup": warmup,
            "beta": beta,
            "normalisation": normalisation,
            **isolation,
        }
        self._loaded: Mapping[str, Tensor] | None = None
        self.protection: Protection | None = None

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Find the parameters; the model is adapted to the experience already."""
        earlier = self.protection
        if earlier is None or not earlier.trains(strategy.optimizer, strategy.model):
            self.protection = Protection(strategy.optimizer, strategy.model, **self._options)
            if earlier is not None:
                self.protection.go_on_from(earlier)
        else:
            earlier.take_up_changes()  # early stopping has loaded the best weights back
        if self._loaded is not None:
            self._current().load_state_dict(self._loaded)
            self._loaded = None

    def before_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Take the gradients into the importance."""
        self._current().gradients_ready()

    def after_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Write protected weights back; move the mask if it is due."""
        self._current().parameters_updated()

    def statistics(self) -> dict[str, float]:
        """As :meth:`Protection.statistics`; empty before the first experience."""
        return self.protection.statistics() if self.protection is not None else {}

    def state_dict(self) -> dict[str, Tensor]:
        """As :meth:`Protection.state_dict`; empty before the first experience."""
        return self.protection.state_dict() if self.protection is not None else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state when the next experience begins; the model must hold its weights."""
        self._loaded = dict(state) or None

    def _current(self) -> Protection:
        if self.protection is None:
            raise UserError("EPIPlugin: no experience has begun; call strategy.train(...)")
        return self.protection

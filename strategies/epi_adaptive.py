"""Adaptive EPI: neither the protected share nor the interval is set by hand."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from epi_bench import (
    IsolationStrategy,
    Step,
    TradeOff,
    UserError,
    register_strategy,
    state_part,
)

FIRST_INTERVAL = 20
"""Optimizer steps before the first refresh and between the first two."""


@register_strategy("epi_adaptive")
class EPIAdaptive(IsolationStrategy):
    """EPI whose ratio follows the measured conflict and whose interval follows the drift.

    Two moving averages of squared gradients are kept: a slow one S, what has mattered so far, and a
    fast one F, what learning asks for now. With ``s`` and ``f`` the two divided by their means
    within each tensor:

    1. a weight is protected where ``s > margin * f``: where its share of what would be lost without
       protection exceeds its share of the gradient that protection would block. With margin 1
       this set maximises (share of s protected) - (share of f blocked), so the ratio follows
       from the conflict: next to nothing is protected while a single task is trained, much when
       a new task asks for other weights than those before.
    2. the mask is measured again after an interval that is halved when the overlap of two masks
       (Jaccard, divided by the largest value that their sizes allow) falls below ``lowest_overlap``
       and doubled when it exceeds ``highest_overlap``, between 1 step and ``longest_interval``
    3. a protected weight is bit-identical between two refreshes

    EPI's authors name both as open questions (Lin et al. 2026, arXiv 2604.14010); the rules are
    this project's. No knowledge of where experiences end is used.

    A negative result, kept because it is one: on the embedded suite it does not beat ``epi`` with a
    fixed ratio.

    Args:
        margin: How much more a weight must have mattered than it is asked for now, above 0.
        slow: Decay of the slow average, in [0, 1).
        fast: Decay of the fast average, in [0, 1), below ``slow``.
        lowest_overlap: Overlap below which the interval is halved, in [0, 1].
        highest_overlap: Overlap above which it is doubled, in [0, 1].
        longest_interval: Optimizer steps, at least 1.
    """

    bytes_per_parameter = "8"
    trade_off = TradeOff("margin", (4.0, 2.0, 1.0, 0.5, 0.25))
    evidence = (
        "A negative result: on the embedded suite it is not above ``epi`` with a fixed ratio."
    )

    def __init__(
        self,
        margin: float = 1.0,
        slow: float = 0.999,
        fast: float = 0.9,
        lowest_overlap: float = 0.8,
        highest_overlap: float = 0.95,
        longest_interval: int = 100,
    ) -> None:
        if margin <= 0:
            raise UserError(f"epi_adaptive: margin={margin} must be above 0")
        if not 0 <= fast < slow < 1:
            raise UserError(f"epi_adaptive: 0 <= fast={fast} < slow={slow} < 1 must hold")
        if not 0 <= lowest_overlap <= highest_overlap <= 1:
            raise UserError(
                f"epi_adaptive: 0 <= lowest_overlap={lowest_overlap} <= "
                f"highest_overlap={highest_overlap} <= 1 must hold"
            )
        if longest_interval < 1:
            raise UserError(f"epi_adaptive: longest_interval={longest_interval} must be at least 1")
        # the ratio is replaced at each refresh; the engine wants one to begin with
        super().__init__(0.5, 1, 0, beta=slow, normalisation="mean")
        self.margin = margin
        self.fast = fast
        self.overlap_band = (lowest_overlap, highest_overlap)
        self.longest_interval = longest_interval
        self._fast: dict[str, Tensor] = {}
        self._next_interval = min(FIRST_INTERVAL, longest_interval)
        self._next_refresh = self._next_interval
        self._blocked = 0.0

    def refresh_due(self, step: Step) -> bool:
        """When the present interval is over."""
        return step.number >= self._next_refresh

    @torch.no_grad()
    def gradients_ready(self, step: Step) -> None:
        """Take the step's gradients into both averages, unless they are not finite."""
        if not self.isolation.observe():
            return
        for name, parameter in self.isolation.parameters.items():
            if name not in self._fast:
                self._fast[name] = torch.zeros_like(parameter, dtype=torch.float32)
            average = self._fast[name].mul_(self.fast)
            if parameter.grad is not None:
                gradient = parameter.grad.float()
                average.addcmul_(gradient, gradient, value=1 - self.fast)

    @torch.no_grad()
    def refresh(self) -> None:
        """Protect where the past outweighs the present, and set the next interval."""
        isolation = self.isolation
        scores = {
            name: self._excess(slow, self._fast[name])
            for name, slow in isolation.importance.values.items()
        }
        before = isolation.masks if self._refreshes else None
        isolation.ratio = sum(int(s.count_nonzero()) for s in scores.values()) / isolation.size
        isolation.refresh_from(scores)
        masks = isolation.masks
        self._blocked = self._blocked_share(masks)
        if before is not None:
            self._adapt_interval(relative_overlap(before, masks))
        self._next_refresh += self._next_interval

    def diagnostics(self) -> dict[str, float]:
        """Beside the mask's statistics: the interval, and the share of F that the mask blocks."""
        statistics = super().diagnostics()
        if statistics:
            statistics["interval"] = float(self._next_interval)
            statistics["blocked_gradient"] = self._blocked
        return statistics

    def state_dict(self) -> dict[str, Tensor]:
        """The engine's state, the fast average and the schedule."""
        state = super().state_dict()
        if state:
            state |= {f"fast.{name}": average for name, average in self._fast.items()}
            state["schedule"] = torch.tensor(
                [self._next_interval, self._next_refresh, self._refreshes]
            )
            shares = [self._blocked, self.isolation.ratio]
            state["shares"] = torch.tensor(shares, dtype=torch.float64)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up all of it."""
        super().load_state_dict(state)
        if not state:
            return
        parameters = self.isolation.parameters
        fast = state_part(state, "fast.")
        self._fast = {k: v.to(parameters[k].device, copy=True) for k, v in fast.items()}
        schedule = state["schedule"].tolist()
        self._next_interval, self._next_refresh, self._refreshes = schedule
        self._blocked, self.isolation.ratio = state["shares"].tolist()

    def state_bytes(self) -> int:
        """Bytes of the engine and of the fast average."""
        fast = sum(t.numel() * t.element_size() for t in self._fast.values())
        return super().state_bytes() + fast

    def _excess(self, slow: Tensor, fast: Tensor) -> Tensor:
        """``max(s - margin f, 0)``: positive exactly where a weight is to be protected."""
        return (_by_mean(slow) - self.margin * _by_mean(fast)).clamp_min_(0)

    def _blocked_share(self, masks: Mapping[str, Tensor]) -> float:
        blocked = whole = 0.0
        for name, average in self._fast.items():
            flat = average.double().as_strided((average.numel(),), (1,))
            whole += float(flat.sum())
            blocked += float(flat[masks[name]].sum())
        return blocked / whole if whole > 0 else 0.0

    def _adapt_interval(self, overlap: float) -> None:
        lowest, highest = self.overlap_band
        if overlap < lowest:
            self._next_interval = max(self._next_interval // 2, 1)
        elif overlap > highest:
            self._next_interval = min(self._next_interval * 2, self.longest_interval)


def relative_overlap(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Jaccard index of two masks over the largest that sets of their sizes can have, in [0, 1].

    Nested sets overlap fully, so that a change of the ratio alone is no drift.
    """
    both = sum(int((mask & second[name]).sum()) for name, mask in first.items())
    sizes = sorted(sum(int(m.sum()) for m in masks.values()) for masks in (first, second))
    if sizes[0] == 0:
        return 1.0
    return both / (sum(sizes) - both) / (sizes[0] / sizes[1])


def _by_mean(average: Tensor) -> Tensor:
    mean = average.double().mean()
    return (average / mean).float() if bool(mean > 0) else torch.zeros_like(average)

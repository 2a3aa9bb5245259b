"""What is kept at equal learning: against a curve of runs that learn more and less.

A method that changes a model less forgets less and learns less, and so does a lower learning rate.
What a method is worth is therefore what it keeps beyond full fine-tuning *at the learning rate that
learns as much*.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple


class Outcome(NamedTuple):
    """What one run learned and kept.

    Attributes:
        learned: How good the new is, higher is better.
        kept: How good the old still is, higher is better.
    """

    learned: float
    kept: float


def best_outcomes(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those that no other one beats in both respects, from the least learned to the most.

    >>> best_outcomes([Outcome(0, 0), Outcome(50, -10), Outcome(40, -20), Outcome(90, -60)])
    [Outcome(learned=0, kept=0), Outcome(learned=50, kept=-10), Outcome(learned=90, kept=-60)]
    """
    best: list[Outcome] = []
    for outcome in sorted(outcomes, key=lambda o: (-o.learned, -o.kept)):
        if not best or outcome.kept > best[-1].kept:
            best.append(outcome)
    return best[::-1]


def kept_at(outcomes: Sequence[Outcome], learned: float) -> float:
    """What is kept by the best of some runs that learn this much.

    Between two of the :func:`best_outcomes` it is the straight line between them. Where even the
    one that learns least has learned more, it is what that one keeps; where none has learned so
    much, what the one that learned most keeps.

    >>> kept_at([Outcome(0, 0), Outcome(50, -10), Outcome(90, -60)], 70)
    -35.0

    Args:
        outcomes: Of the runs, at least one.
        learned: How much.
    """
    best = best_outcomes(outcomes)
    after = bisect_left([outcome.learned for outcome in best], learned)
    if after == 0:
        return best[0].kept
    if after == len(best):
        return best[-1].kept
    low, high = best[after - 1], best[after]
    part = (learned - low.learned) / (high.learned - low.learned)
    return low.kept + part * (high.kept - low.kept)

"""Whether a strategy keeps its contract: all checks of it, as a test or as a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from epi_bench.errors import UserError, describe_error
from epi_bench.testing.contract import (
    CHECKS,
    WATCHED,
    Weights,
    first_difference,
    weights_of,
)
from epi_bench.testing.contract import Subject as _Subject
from epi_bench.testing.toys import STEPS, toy_model, train_toy

if TYPE_CHECKING:
    from epi_bench.strategy.strategy import Strategy


class StrategyCheckError(AssertionError):
    """A strategy does not keep its contract.

    Attributes:
        check: Name of the check that found it.
    """

    def __init__(self, check: str, problem: str) -> None:
        super().__init__(f"check {check!r}: {problem}")
        self.check = check


def check_strategy(
    strategy: str | type[Strategy],
    *,
    holds: Callable[[Weights, Weights], bool | None] | None = None,
    **options: Any,
) -> list[str]:
    """Train a strategy on the toy tasks in several ways, and check that it keeps its contract.

    Args:
        strategy: A registered name, or a class.
        holds: Called with the weights of the loaded and of the finished model, by name; what it
            returns as ``False`` or raises fails the check ``holds``.
        options: The strategy's options, chosen so that it acts within six steps.

    Returns:
        Names of the checks that were passed.

    Raises:
        StrategyCheckError: At the first check that fails; it says what to do.
        UserError: If the strategy or an option is unknown or wrong.

    Example:
        ```python
        check_strategy("epi", ratio=0.3, warmup=1, interval=2)
        ```
    """
    subject = _subject(strategy, options)
    checks = dict(CHECKS)
    if holds is not None:
        checks["holds"] = lambda subject: _check_holds(subject, holds)
    for outcome in _outcomes(subject, checks):
        if outcome.problem:
            raise StrategyCheckError(outcome.check, outcome.problem) from outcome.error
    return list(checks)


@dataclass(frozen=True)
class CheckOutcome:
    """What one check found.

    Attributes:
        check: Its name.
        problem: What is wrong, and what to do; ``None`` if it was passed.
        error: What the strategy raised, if it did.
    """

    check: str
    problem: str | None
    error: Exception | None = None


@dataclass(frozen=True)
class CheckReport:
    """What all checks found.

    Attributes:
        outcomes: One for each check.
        warnings: Why passing may say little: what the checks could not see at work.
    """

    outcomes: tuple[CheckOutcome, ...]
    warnings: tuple[str, ...]


def run_checks(strategy: str | type[Strategy], options: Mapping[str, Any]) -> CheckReport:
    """The checks of :func:`check_strategy`, all of them, whatever fails.

    Args:
        strategy: A registered name, or a class.
        options: The strategy's options.

    Raises:
        UserError: If the strategy or an option is unknown or wrong.
    """
    subject = _subject(strategy, options)
    outcomes = tuple(_outcomes(subject, CHECKS))
    warnings: tuple[str, ...] = ()
    if not any(outcome.problem for outcome in outcomes) and _acts_in_vain(subject):
        warnings = (
            "on the toy tasks it ends as full fine-tuning does, so most checks saw nothing at "
            f"work: set options with which it acts within {2 * STEPS} steps",
        )
    return CheckReport(outcomes, warnings)


def _subject(strategy: str | type[Strategy], options: Mapping[str, Any]) -> _Subject:
    from epi_bench.plugins.options import check_options
    from epi_bench.strategy.strategy import STRATEGIES

    cls = STRATEGIES.get(strategy) if isinstance(strategy, str) else strategy
    subject = _Subject(cls, check_options(f"strategy {cls.name or cls.__name__!r}", cls, options))
    subject.make()
    return subject


def _outcomes(
    subject: _Subject, checks: Mapping[str, Callable[[_Subject], str | None]]
) -> Iterator[CheckOutcome]:
    for name, check in checks.items():
        try:
            yield CheckOutcome(name, check(subject))
        except UserError as error:
            yield CheckOutcome(name, str(error), error)
        except Exception as error:  # noqa: BLE001  (it is what the check found)
            yield CheckOutcome(name, describe_error(error), error)


def _acts_in_vain(subject: _Subject) -> bool:
    """Whether it trains the toy tasks as full fine-tuning does, without being that."""
    from epi_bench.strategy.strategy import Strategy

    plain = weights_of(train_toy(Strategy()))
    hooks = [name for name in WATCHED if getattr(subject.cls, name) is not getattr(Strategy, name)]
    return bool(hooks) and first_difference(plain, weights_of(subject.plainly_trained)) is None


def _check_holds(subject: _Subject, holds: Callable[[Weights, Weights], bool | None]) -> str | None:
    if holds(weights_of(toy_model()), weights_of(subject.plainly_trained)) is False:
        return "what holds= asks for does not hold after training"
    return None

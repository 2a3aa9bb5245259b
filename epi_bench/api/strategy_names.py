"""Which strategies are meant by names, families and ``all``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from epi_bench.errors import UserError, unknown_name
from epi_bench.strategy.facts import FAMILIES
from epi_bench.strategy.strategy import STRATEGIES

ALL = "all"
"""Stands for every strategy: the built-in ones, installed plugins, and those of plugin files."""


@dataclass(frozen=True)
class ChosenStrategies:
    """Strategies that were asked for.

    Attributes:
        names: Each once, in the order in which they were asked for.
        by_name: Those of them that were named themselves. The others, which a family or ``all``
            brought along, are left out where they would be full fine-tuning again.
    """

    names: tuple[str, ...]
    by_name: frozenset[str]


def chosen_strategies(asked: Sequence[str]) -> ChosenStrategies:
    """The strategies that names, names of families and ``all`` stand for.

    Args:
        asked: Such as ``["full_sft", "mask"]``.

    Raises:
        UserError: If one is unknown, or the plugin of a strategy that was named fails.

    Example:
        >>> chosen_strategies(["replay", "baseline"]).names
        ('replay', 'early_stop', 'full_sft', 'low_learning_rate')
    """
    names: list[str] = []
    for name in asked:
        if name == ALL:
            names += STRATEGIES.names()
        elif name in FAMILIES:
            loaded, _ = STRATEGIES.load_all()
            names += [known for known, cls in loaded.items() if cls.family == name]
        elif STRATEGIES.knows(name):
            names.append(name)
        else:
            raise unknown_name("strategy", name, [*STRATEGIES.names(), *FAMILIES, ALL])
    by_name = frozenset(asked) - set(FAMILIES) - {ALL}
    return ChosenStrategies(tuple(dict.fromkeys(names)), by_name)


def nothing_left(asked: Sequence[str], for_adapter: bool = False) -> UserError:
    """The error where all that a family brought along would be full fine-tuning.

    Args:
        asked: As of :func:`chosen_strategies`.
        for_adapter: Whether some cannot train the run's adapter.
    """
    if for_adapter:
        return UserError(
            f"no strategy of {', '.join(asked)} can train an adapter that the run puts on the "
            "model: choose other strategies, or leave adapter.kind out",
            setting=("strategy.name", "adapter.kind"),
        )
    return UserError(
        f"every strategy of {', '.join(asked)} acts from a later experience on than the stream "
        "has, and would train as full_sft does: choose another stream or other strategies",
        setting="strategy.name",
    )

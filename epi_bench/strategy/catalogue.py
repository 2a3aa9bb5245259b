"""The facts of strategies, read off their classes, in the order in which they are shown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from epi_bench.errors import UserError
from epi_bench.strategy.facts import FAMILIES, NEEDS, TradeOff
from epi_bench.strategy.strategy import Strategy

_ARXIV = re.compile(r"arXiv[\s:]+(\d{4}\.\d{4,5})")


@dataclass(frozen=True)
class StrategyEntry:
    """What is known about a strategy before it runs.

    Attributes:
        name: As registered.
        strategy: Its class.
        family: By what means it keeps what was learned before.
        needs: What it cannot do without.
        bytes_per_parameter: As :attr:`Strategy.bytes_per_parameter`; empty where it is not said.
        trade_off: The option that trades learning for keeping.
        acts_from: Index of the first experience in which it differs from full fine-tuning, at its
            default options.
        sources: Numbers of the arXiv papers that its documentation names.
        evidence: What is known about when it helps.
    """

    name: str
    strategy: type[Strategy]
    family: str
    needs: tuple[str, ...]
    bytes_per_parameter: str
    trade_off: TradeOff | None
    acts_from: int
    sources: tuple[str, ...]
    evidence: str


def catalogue(strategies: Mapping[str, type[Strategy]]) -> dict[str, list[StrategyEntry]]:
    """Strategies by family, in the order of :data:`FAMILIES`; families without any are left out.

    Args:
        strategies: Name -> class, as ``STRATEGIES.load_all`` gives them.
    """
    entries = [entry_of(name, cls) for name, cls in strategies.items()]
    groups = {family: [e for e in entries if e.family == family] for family in FAMILIES}
    return {family: group for family, group in groups.items() if group}


def entry_of(name: str, cls: type[Strategy]) -> StrategyEntry:
    """What a strategy's class says about it.

    Args:
        name: As registered.
        cls: Its class.
    """
    needs = {*cls.needs, *(("old data",) if cls.stores_examples else ())}
    text = (inspect.getdoc(cls) or "").split("\nArgs:", 1)[0]
    return StrategyEntry(
        name,
        cls,
        cls.family,
        tuple(need for need in NEEDS if need in needs),
        cls.bytes_per_parameter,
        cls.trade_off,
        _acts_from(cls),
        tuple(dict.fromkeys(_ARXIV.findall(text))),
        cls.evidence,
    )


def search_space_of(cls: type[Strategy]) -> Sequence[Mapping[str, Any]]:
    """The settings that a search for a strategy's defaults tries, each as options.

    Args:
        cls: Its class.
    """
    if cls.search_space:
        return cls.search_space
    return cls.trade_off.settings if cls.trade_off else ({},)


def _acts_from(cls: type[Strategy]) -> int:
    """At the default options, which may decide it; that of the class where an option has none."""
    try:
        return cls().acts_from
    except (TypeError, UserError):
        return cls.acts_from

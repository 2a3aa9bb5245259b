"""The facts of strategies: what a class says, and what is made of it."""

from __future__ import annotations

import pytest

from epi_bench import IsolationStrategy, Strategy, TradeOff, UserError, register_strategy
from epi_bench.strategy.catalogue import catalogue, entry_of, search_space_of
from epi_bench.strategy.strategy import STRATEGIES


class Stated(Strategy):
    """Pull back (Ann 2020, arXiv 2001.00001; Bob 2021, arXiv 2101.00002, arXiv 2001.00001).

    Args:
        pull: As in arXiv 1901.00001.
        late: Whether it begins with the second experience.
    """

    family = "penalty"
    needs = ("old weights", "boundaries")
    stores_examples = True
    bytes_per_parameter = "4 * experiences"
    trade_off = TradeOff("pull", (0.1, 1.0))
    evidence = "Here and there."

    def __init__(self, pull: float = 1.0, late: bool = True) -> None:
        self.acts_from = int(late)


def test_an_entry_holds_what_the_class_says():
    entry = entry_of("stated", Stated)
    assert entry.needs == ("boundaries", "old data", "old weights")
    assert entry.sources == ("2001.00001", "2101.00002")
    assert entry.acts_from == 1
    assert (entry.family, entry.bytes_per_parameter) == ("penalty", "4 * experiences")
    assert entry.evidence == "Here and there."


def test_a_class_that_says_nothing_is_shown_as_such():
    class Silent(Strategy):
        acts_from = 2

        def __init__(self, needed: int) -> None:
            pass

    entry = entry_of("silent", Silent)
    assert (entry.family, entry.needs, entry.bytes_per_parameter) == ("other", (), "")
    assert entry.trade_off is None
    assert entry.acts_from == 2  # it cannot be made without its option


def test_a_family_is_inherited():
    assert entry_of("own_mask", type("OwnMask", (IsolationStrategy,), {})).family == "mask"


def test_strategies_are_grouped_in_the_order_of_the_families():
    groups = catalogue({"a": Stated, "b": Strategy, "c": IsolationStrategy})
    assert {family: [entry.name for entry in group] for family, group in groups.items()} == {
        "mask": ["c"],
        "penalty": ["a"],
        "other": ["b"],
    }
    assert list(groups) == ["mask", "penalty", "other"]


def test_a_search_tries_the_values_of_the_option_unless_the_class_says_more():
    assert search_space_of(Stated) == ({"pull": 0.1}, {"pull": 1.0})
    assert search_space_of(type("More", (Stated,), {"search_space": ({"pull": 3},)})) == (
        {"pull": 3},
    )
    assert search_space_of(Strategy) == ({},)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"family": "masks"}, "'wrong' names an unknown family 'masks': did you mean 'mask'"),
        ({"needs": ("boundary",)}, "names an unknown need 'boundary': did you mean 'boundaries'"),
    ],
)
def test_a_family_or_need_that_does_not_exist_is_refused(facts, message):
    with pytest.raises(UserError, match=message):
        register_strategy("wrong")(type("Wrong", (Strategy,), facts))
    assert "wrong" not in STRATEGIES.names()


@pytest.mark.parametrize("name", ["all", "mask", "other"])
def test_the_name_of_a_family_is_no_name_for_a_strategy(name):
    with pytest.raises(UserError, match=f"{name!r} means something else than a strategy"):
        register_strategy(name)(type("Named", (Strategy,), {}))

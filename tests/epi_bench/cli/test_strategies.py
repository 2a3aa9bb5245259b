"""The list of strategies, and what is shown of one."""

from __future__ import annotations

import csv
import io
import json

import pytest
from typer.testing import CliRunner

from epi_bench.cli.strategies import strategies_app
from epi_bench.strategy.facts import FAMILIES
from epi_bench.strategy.strategy import STRATEGIES

PLUGIN = '''
from epi_bench import Strategy, TradeOff, register_strategy


@register_strategy("listed_one")
class ListedOne(Strategy):
    """One [b]line[/b] (Ann 2020, arXiv 2001.00001).

    Another paragraph.
    """

    family = "penalty"
    needs = ("boundaries",)
    stores_examples = True
    bytes_per_parameter = "4 + 2 * experiences"
    trade_off = TradeOff("pull", (0.5, 1.0))
    evidence = "Like ``ewc``."

    def __init__(self, pull: float = 1.0) -> None:
        self.acts_from = 1


@register_strategy("listed_silent")
class ListedSilent(Strategy):
    pass
'''


@pytest.fixture
def call(monkeypatch, tmp_path, forgotten_plugins):
    plugin = tmp_path / "listed.py"
    plugin.write_text(PLUGIN, encoding="utf-8")

    def call_at(width, *arguments):
        monkeypatch.setenv("COLUMNS", str(width))
        result = CliRunner().invoke(strategies_app, [*arguments, "--plugin", str(plugin)])
        assert result.exit_code == 0, result.exception
        return result.stdout

    return call_at


@pytest.mark.parametrize("width", [80, 120])
def test_each_family_is_one_table_with_all_its_facts(call, width):
    """Narrower, a table would be cut in two."""
    text = call(width, "list")
    heads = [line for line in text.splitlines() if line.startswith("strategy ")]
    assert all(line.split() == heads[0].split() for line in heads)
    assert heads[0].split() == ["strategy", "what", "it", "does", "needs", "bytes", "strength"]
    titles = [line for line in text.splitlines() if line.partition(":")[0] in FAMILIES]
    assert [title.partition(":")[0] for title in titles] == list(FAMILIES)  # other: the plugin
    (line,) = (line for line in text.splitlines() if line.startswith("listed_one "))
    assert line.split()[-2:] == ["4+", "pull"]
    assert "One [b]line[/b]." in line
    assert "2001.00001" not in text


def test_other_programs_get_the_same_facts(call):
    rows = {row["name"]: row for row in json.loads(call(80, "list", "--format", "json"))}
    assert set(rows) == set(STRATEGIES.names())
    assert rows["listed_one"] == {
        "name": "listed_one",
        "family": "penalty",
        "summary": "One [b]line[/b].",
        "needs": ["boundaries", "old data"],
        "bytes_per_parameter": "4 + 2 * experiences",
        "acts_from": 1,
        "trade_off": {"option": "pull", "values": [0.5, 1.0]},
        "sources": ["https://arxiv.org/abs/2001.00001"],
        "evidence": "Like ewc.",
    }
    silent = rows["listed_silent"]
    assert silent["family"] == "other"
    assert silent["bytes_per_parameter"] is None
    assert silent["trade_off"] is None
    table = csv.DictReader(io.StringIO(call(80, "list", "--format", "csv")))
    (row,) = (row for row in table if row["name"] == "listed_one")
    assert row["needs"] == "boundaries, old data"
    assert row["values from weak to strong"] == "0.5, 1"


def test_what_is_shown_of_one_is_what_it_says(call):
    words = " ".join(call(200, "show", "listed_one").split())
    for shown in (
        "penalty: weights are drawn back",
        "to be told where an experience ends",
        "training examples of earlier experiences, kept",
        "4 + 2 × experiences bytes a parameter",
        "from experience 2 on",
        "pull, from weak to strong: 0.5, 1",
        "known Like ewc.",
    ):
        assert shown in words
    silent = call(200, "show", "listed_silent")
    assert "bytes a parameter" not in silent
    assert "from weak to strong" not in silent

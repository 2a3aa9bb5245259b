"""One strategy beside others, on a terminal and for other programs."""

from __future__ import annotations

import csv
import io
import json
import math
import re

import pytest
import typer
from typer.testing import CliRunner

from epi_bench.cli.compare import compare
from epi_bench.errors import UserError
from epi_bench.results.leaderboard import publish
from epi_bench.results.record.items import pack_items


@pytest.fixture
def call(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    app = typer.Typer()
    app.command()(compare)
    return lambda *arguments: CliRunner().invoke(app, [str(part) for part in arguments])


@pytest.fixture
def track(make_run, tmp_path):
    """The folder of a track in which epi is 5, 7 and 9 ahead of ewc, and 1 behind sft."""
    for seed, (epi, ewc) in enumerate(((60, 50), (64, 50), (68, 50))):
        for name, score in (("epi", epi), ("ewc", ewc), ("sft", epi + 2)):
            path = publish(make_run(name, (score, 80), seed=seed), tmp_path)
    return path.parent


def rows(text):
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def test_hand_computed(call, track):
    result = call("epi", "--board", track, "--metric", "average_accuracy")
    assert result.exit_code == 0, result.exception
    assert rows(result.stdout)[:2] == [
        ["average accuracy (higher is better)"],
        ["epi minus", "pairs", "difference", "p", "p, Holm"],
    ]
    # 7 ± 4.97 and p = 0.026 as in test_comparison; the other differences are all the same.
    assert rows(result.stdout)[3:5] == [
        ["sft", "3", "-1.0", "–", "–"],
        ["ewc", "3", "+7.0 ± 5.0", "0.026", "0.026"],
    ]


def test_only_the_named_ones(call, track):
    result = call("epi", "ewc", "--board", track)
    assert "sft" not in result.stdout
    for title in ("average accuracy", "learning accuracy", "backward transfer", "forgetting"):
        assert f"{title} (" in result.stdout


def test_csv_and_json_hold_every_number(call, track):
    table = list(
        csv.DictReader(io.StringIO(call("epi", "--board", track, "--format", "csv").stdout))
    )
    content = json.loads(call("epi", "--board", track, "--format", "json").stdout)
    assert len(table) == len(content) == 2 * 4
    (found,) = (c for c in content if (c["second"], c["metric"]) == ("ewc", "average_accuracy"))
    assert (found["first"], found["pairs"], found["mean_difference"]) == ("epi", 3, 7)
    assert (found["low"], found["high"]) == (2.031725, 11.968275)
    assert [row["second"] for row in table] == [content_row["second"] for content_row in content]


def test_markdown(call, track):
    text = call("epi", "--board", track, "--format", "markdown").stdout
    assert text.splitlines() == [
        "| `epi` minus | pairs | average accuracy | learning accuracy | backward transfer "
        "| forgetting | p | p, Holm |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| `sft` | 3 | -1.0 | +0.0 | -2.0 | +2.0 | – | – |",
        "| `ewc` | 3 | +7.0 | +0.0 | +14.0 | -14.0 | 0.026 | 0.026 |",
    ]


def test_a_single_pair_is_compared_on_its_items(call, make_run, tmp_path):
    """20 of 30 items differ by 100: 66.7 with a normal interval of 1.96 sqrt(2/3 1/3 / 30)."""
    for name, right in (("epi", 20), ("ewc", 0)):
        items = {"a": pack_items({str(i): 100.0 if i < right else 0.0 for i in range(30)})}
        record = make_run(name, (100 * right / 30, 80.0), item_scores=items)
        path = publish(record, tmp_path)
    text = call("epi", "--board", path.parent).stdout
    found = re.search(r"\+66\.7 \[\+(\d+\.\d), \+(\d+\.\d)\] \(n = 30\)", text)
    assert found
    half_width = 100 * 1.96 * math.sqrt(2 / 3 * 1 / 3 / 30)
    expected = (200 / 3 - half_width, 200 / 3 + half_width)
    assert tuple(map(float, found.groups())) == pytest.approx(expected, abs=1.5)
    assert "says nothing about other seeds" in " ".join(text.split())


@pytest.mark.parametrize("width", [60, 80])
def test_fits_the_terminal(call, track, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    assert max(map(len, call("epi", "--board", track).stdout.splitlines())) <= width


def test_the_folder_of_all_tracks_needs_a_name_where_there_are_several(call, track, make_run):
    assert call("epi", "--board", track.parent).exit_code == 0
    publish(make_run(stream="mixed"), track.parent)
    message = str(call("epi", "--board", track.parent).exception)
    assert "holds 2 tracks; name one with --track: " in message
    assert track.name in message
    named = call("epi", "--board", track.parent, "--track", track.name)
    assert named.stdout == call("epi", "--board", track).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["epy"], "unknown strategy of this track 'epy': did you mean 'epi'"),
        (["epi", "--metric", "forgeting"], "unknown metric 'forgeting': did you mean 'forgetting'"),
        (["epi", "epi"], "cannot be compared with itself"),
    ],
)
def test_wrong_names_are_user_errors(call, track, arguments, message):
    error = call(*arguments, "--board", track).exception
    assert isinstance(error, UserError)
    assert message in str(error)


def test_a_folder_without_records(call, tmp_path):
    assert "no leaderboards in" in str(call("epi", "--board", tmp_path).exception)

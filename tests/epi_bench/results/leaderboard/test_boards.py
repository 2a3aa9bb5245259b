"""One's own results beside the published ones."""

from __future__ import annotations

import sys

import pytest

import epi_bench
from epi_bench.cli.app import main
from epi_bench.errors import UserError
from epi_bench.results.leaderboard import (
    boards,
    compare_with_others,
    group_by_configuration,
    load_boards,
    publish,
    rank_track,
    to_json,
)
from epi_bench.results.leaderboard.comparison import find_label
from epi_bench.results.leaderboard.markdown import to_markdown


@pytest.fixture
def own(make_run):
    return [make_run("epi", (50 + i, 80), seed=i) for i in range(2)]


@pytest.fixture
def published(make_run):
    runs = [make_run("epi", (60 + i, 80), seed=i) for i in range(2)]
    return [*runs, *(make_run("ewc", (20, 80 + i), seed=i) for i in range(2))]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder; epi-bench runs from no checkout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(boards, "shipped_file", lambda: tmp_path / "site" / "epi_bench" / "data")
    return tmp_path


@pytest.fixture
def call(monkeypatch, capsys):
    def call_main(*words):
        monkeypatch.setattr(sys, "argv", ["epi-bench", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return call_main


def test_published_rows_stand_beside_ones_own_marked(own, published):
    ranking = rank_track(own, published=published)
    entries = {entry.label: entry for entry in ranking.entries}
    assert set(entries) == {"epi", "epi (published)", "ewc (published)"}
    assert entries["epi"].values["average_accuracy"].mean == 65.25  # 65 and 65.5
    assert entries["epi (published)"].values["average_accuracy"].mean == 70.25
    assert entries["epi"].marks == ()
    assert entries["epi (published)"].marks == ("published",)
    assert ranking.comparisons[("epi", "epi (published)")].mean_difference == -5
    assert '"published"' in to_json([ranking])
    page = to_markdown(ranking)
    assert page.count("epi (published) |") == 1
    assert "- (published) from the published board, beside your own runs." in page


def test_without_ones_own_nothing_is_marked(published):
    assert {e.label for e in rank_track(published).entries} == {"epi", "ewc"}


def test_settings_are_told_apart_over_both(make_run, published):
    own = [make_run("epi", options={"ratio": 0.3})]
    assert set(group_by_configuration(own, published)) == {
        "epi (ratio=0.3)", "epi (published)", "ewc (published)"
    }  # fmt: skip


def test_ones_own_come_first_where_a_name_is_asked_for(make_run, own, published):
    groups = group_by_configuration(own, published)
    assert find_label(groups, "epi") == "epi"
    assert find_label(groups, "ewc") == "ewc (published)"
    assert find_label(groups, "epi (published)") == "epi (published)"
    tuned = group_by_configuration([make_run("epi", options={"ratio": 0.3})], published)
    assert find_label(tuned, "epi") == "epi (ratio=0.3)"
    [found] = compare_with_others(own, "epi", ["ewc"], ["average_accuracy"], published)
    # 65 - 50 and 65.5 - 50.5
    assert found.comparisons["average_accuracy"].mean_difference == 15


class TestWhereTheyLie:
    def test_ones_own_with_the_published_ones_of_the_same_track(
        self, here, own, published, make_run, call
    ):
        for run in own:
            publish(run, here / "results")
        for run in [*published, make_run(stream="mixed")]:
            publish(run, here / "leaderboards")
        mixed, track = make_run(stream="mixed").track.name, own[0].track.name
        assert list(load_boards().tracks) == [track]
        code, out, _ = call("leaderboard", "--format", "csv")
        assert code == 0
        assert "ewc (published)" in out
        assert mixed not in out
        assert mixed in call("leaderboard", "--track", mixed, "--format", "csv")[1]
        code, out, _ = call("compare", "epi", "--format", "csv")
        assert code == 0
        assert "epi,epi (published),average_accuracy,2,-5" in out
        assert len(epi_bench.load_results()) == 2
        code, out, _ = call("leaderboard", "results", "--format", "csv")
        assert code == 0
        assert "published" not in out

    def test_without_ones_own_the_published_ones(self, here, published, call):
        for run in published:
            publish(run, here / "leaderboards")
        code, out, _ = call("leaderboard", "--format", "csv")
        assert code == 0
        assert "ewc" in out
        assert "published" not in out
        assert len(epi_bench.load_results()) == 4

    def test_those_of_the_checkout_are_found_from_elsewhere(self, here, own, published):
        for run in published:
            publish(run, here / "site" / "leaderboards")
        assert load_boards().published is None
        publish(own[0], here / "results")
        assert load_boards().published.root == here / "site" / "leaderboards"

    def test_neither(self, here, call):
        code, _, error = call("leaderboard")
        assert code == 2
        assert "no results yet" in error
        with pytest.raises(UserError, match="make some with `epi-bench run`"):
            epi_bench.load_results()

    def test_update_writes_to_ones_own(self, here, own, published, call):
        for root, runs in (("results", own), ("leaderboards", published)):
            for run in runs:
                publish(run, here / root)
        assert call("leaderboard", "--update")[0] == 0
        assert (here / "results" / "README.md").is_file()
        assert not (here / "leaderboards" / "README.md").exists()


def test_a_folder_with_the_name_of_a_command(here, own, call):
    publish(own[0], here / "validate")
    assert call("leaderboard", "validate")[0] == 2  # the command; there are no results
    assert "epi" in call("leaderboard", "./validate", "--format", "csv")[1]
    assert "epi" in call("leaderboard", "show", "validate", "--format", "csv")[1]
    code, _, error = call("leaderboard", "submti")
    assert code == 2
    assert "unknown command or folder 'submti': did you mean 'submit'" in error
    code, out, _ = call("leaderboard", "--help")
    assert code == 0
    assert "submit" in out

"""The leaderboards in this repository are what their records make them."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from epi_bench.cli.app import main
from epi_bench.results.leaderboard import load_published
from epi_bench.results.leaderboard.pages import rendered_files

ROOT = Path(__file__).parents[1]
LEADERBOARDS = ROOT / "leaderboards"


@pytest.fixture(scope="module")
def published():
    return load_published(LEADERBOARDS)


def test_the_tables_are_rendered_from_the_records(published):
    files = rendered_files(published)
    assert files
    for path, text in files.items():
        present = (LEADERBOARDS / path).read_text(encoding="utf-8")
        assert present == text, f"{path}: epi-bench leaderboard --update"


def test_nothing_was_left_out_and_nothing_came_from_uncommitted_code(published):
    assert not published.problems
    for records in published.tracks.values():
        for record in records:
            assert record.environment.git_sha
            assert record.environment.git_dirty is False


@pytest.mark.parametrize("kind", ["sequential", "mixed"])
def test_every_strategy_of_the_readmes_command_has_three_seeds_with_an_order_each(published, kind):
    (track,) = (name for name in published.tracks if name.startswith(f"mini-tiny-{kind}-"))
    runs = published.tracks[track]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## How the published numbers were made")[2]
    named = re.search(rf"--stream {kind} .*?--strategy ([\w,]+)", section, re.DOTALL)[1].split(",")
    assert set(named) == {r.strategy.name for r in runs}
    for name in named:
        orders = {r.spec.seed: tuple(r.task_order) for r in runs if r.strategy.name == name}
        assert set(orders) >= {0, 1, 2}, name
        assert len(set(orders.values())) == len(orders), name


def test_the_readme_shows_what_was_published():
    script = runpy.run_path(str(ROOT / "scripts" / "write_readme_results.py"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert script["with_results"](readme, script["results_section"]()) == readme


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["compare", "epi", "--board", "{track}", "--format", "markdown"], "| `full_sft` |"),
        (["inspect", "{track}", "--format", "markdown"], "| last mask with the first |"),
    ],
)
def test_the_commands_behind_the_findings_read_the_records(
    arguments, expected, published, capsys, monkeypatch
):
    (track,) = (name for name in published.tracks if name.startswith("mini-tiny-sequential-"))
    folder = str(LEADERBOARDS / track)
    monkeypatch.setattr(
        sys, "argv", ["epi-bench", *(part.format(track=folder) for part in arguments)]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert expected in capsys.readouterr().out

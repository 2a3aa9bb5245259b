"""Rankings on a terminal, and the command that shows them."""

from __future__ import annotations

import csv
import io

import pytest
from rich.console import Console
from typer.testing import CliRunner

from epi_bench.cli.leaderboard import leaderboard_app
from epi_bench.cli.ranking_table import print_rankings
from epi_bench.errors import UserError
from epi_bench.results.leaderboard import load_published, rank_track
from epi_bench.results.leaderboard.table import ranking_table


def printed(rankings, width):
    console = Console(file=io.StringIO(), width=width)
    print_rankings(rankings, console)
    return console.file.getvalue()


class TestTerminal:
    def test_best_values_carry_a_star_without_colour(self, ranking):
        text = printed([ranking], 240)
        assert "70.5 ± 1.2 ★" in text
        assert "\x1b" not in text

    @pytest.mark.parametrize("width", [60, 80, 100, 120, 240])
    def test_fits_the_terminal_and_loses_nothing(self, ranking, width):
        text = printed([ranking], width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        shown = text.split()
        for column in ranking_table(ranking).columns:
            for cell in (column.title, *column.cells):
                assert set(cell.split()) <= set(shown), cell

    @pytest.mark.parametrize("width", [40, 60, 80, 120])
    def test_a_number_and_its_interval_stay_on_one_line(self, ranking, width):
        assert "70.5 ± 1.2 ★" in printed([ranking], width)

    def test_the_legend_gives_the_formulas_once(self, ranking, make_run):
        other = rank_track([make_run(stream="mixed")])
        text = printed([ranking, other], 240)
        assert text.count("backward transfer: mean over i<T of R[T,i] - R[i,i].") == 1


class TestCommand:
    @pytest.fixture
    def call(self):
        return lambda *arguments: CliRunner().invoke(leaderboard_app, [str(a) for a in arguments])

    @pytest.mark.parametrize("kind", ["table", "markdown", "csv", "json"])
    def test_every_format_shows_every_track(self, call, board, kind):
        result = call(board, "--format", kind)
        assert result.exit_code == 0
        for track in load_published(board).tracks:
            assert track in result.stdout

    def test_output_file_holds_what_would_be_printed(self, call, board, tmp_path):
        for kind in ("table", "csv"):
            file = tmp_path / f"out.{kind}"
            assert call(board, "--format", kind, "--out", file).stdout == ""
            assert file.read_text(encoding="utf-8") == call(board, "--format", kind).stdout

    def test_one_track(self, call, board, make_run):
        mixed = make_run(stream="mixed").track.name
        result = call(board, "--track", mixed, "--format", "csv")
        assert {row["track"] for row in csv.DictReader(io.StringIO(result.stdout))} == {mixed}

    def test_sort(self, call, board):
        result = call(board, "--sort", "training_seconds", "--format", "csv")
        rows = csv.DictReader(io.StringIO(result.stdout))
        assert next(row["strategy"] for row in rows if "sequential" in row["track"]) == "ewc"

    def test_unknown_names_are_user_errors_with_the_closest_ones(self, call, board, make_run):
        mixed = make_run(stream="mixed").track.name
        wrong_track = call(board, "--track", mixed[:-1]).exception
        assert isinstance(wrong_track, UserError)
        assert f"did you mean '{mixed}'" in str(wrong_track)
        wrong_metric = call(board, "--sort", "forgeting").exception
        assert isinstance(wrong_metric, UserError)
        assert "did you mean 'forgetting'" in str(wrong_metric)

    def test_broken_files_are_warned_of_and_the_rest_is_shown(self, call, board, make_run):
        (board / make_run().track.name / "broken.json").write_text("")
        result = call(board)
        assert result.exit_code == 0
        assert result.stderr.count("warning") == 1
        assert "broken.json" in result.stderr

    def test_nothing_but_broken_files(self, call, tmp_path):
        (tmp_path / "track").mkdir()
        (tmp_path / "track" / "broken.json").write_text("")
        result = call(tmp_path)
        assert isinstance(result.exception, UserError)
        assert "no readable record" in str(result.exception)

    def test_update(self, call, board):
        assert "wrote" in call(board, "--update").stdout
        assert "up to date" in call(board, "--update").stdout

    @pytest.mark.parametrize("width", ["60", "120", None])
    def test_in_a_pipe_columns_is_respected_and_without_it_nothing_is_wrapped(
        self, call, board, width, monkeypatch
    ):
        monkeypatch.delenv("COLUMNS", raising=False)
        if width:
            monkeypatch.setenv("COLUMNS", width)
        lines = call(board).stdout.splitlines()
        if width:
            assert max(map(len, lines)) <= int(width)
        else:
            (header,) = (line for line in lines if "rank  strategy" in line and "epi" not in line
                         and "backward transfer" in line and "forgetting" in line)  # fmt: skip
            assert "training seconds" in header

"""Tables and the command that shows them."""

from __future__ import annotations

import csv
import io
import json

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from epi_bench.cli.leaderboard import leaderboard
from epi_bench.cli.ranking_table import print_rankings
from epi_bench.errors import UserError
from epi_bench.results.leaderboard import (
    load_published,
    publish,
    rank_track,
    to_csv,
    to_json,
)
from epi_bench.results.leaderboard.legend import legend
from epi_bench.results.leaderboard.markdown import to_markdown
from epi_bench.results.leaderboard.pages import rendered_files, write_rendered_files
from epi_bench.results.leaderboard.table import table_columns


@pytest.fixture
def runs(make_run):
    good = [make_run("epi", (60 + i, 80), seed=i, references=(75, 85)) for i in range(3)]
    bad = [make_run("ewc", (20 + 2 * i, 80), seed=i, seconds=5.0) for i in range(2)]
    return [*good, *bad, make_run("wise", (5, 5), options={"share": "a|b"}, dirty=True)]


@pytest.fixture
def ranking(runs):
    return rank_track(runs)


@pytest.fixture
def root(runs, make_run, tmp_path):
    for run in [*runs, make_run(stream="mixed")]:
        publish(run, tmp_path)
    return tmp_path


def printed(rankings, width):
    console = Console(file=io.StringIO(), width=width)
    print_rankings(rankings, console)
    return console.file.getvalue()


def columns(ranking):
    return {column.title: column for column in table_columns(ranking)}


class TestColumns:
    def test_mean_with_interval(self, ranking):
        # 70, 70.5, 71: s = 0.5, t(0.975, 2) = 4.3027
        assert columns(ranking)["average accuracy"].cells == ("70.5 ± 1.2", "50.5 ± 6.4", "5.0")

    def test_undefined_is_an_en_dash(self, ranking):
        assert columns(ranking)["intransigence"].cells[1:] == ("–", "–")

    def test_columns_that_no_entry_defines_are_left_out(self, ranking):
        assert "interference" not in columns(ranking)

    def test_the_best_follows_the_direction_of_the_measure(self, ranking):
        assert columns(ranking)["average accuracy"].best == (True, False, False)
        assert columns(ranking)["forgetting"].best == (True, False, False)
        assert columns(ranking)["training seconds"].best == (False, True, False)

    def test_nothing_is_best_where_all_are_equal(self, ranking):
        assert not any(columns(ranking)["extra state MB"].best)

    def test_no_share_of_moved_weights_is_the_best(self, make_run):
        moved = [
            make_run(name).model_copy(update={"moved_weights": share})
            for name, share in (("epi", 0.5), ("ewc", 1.0))
        ]
        column = columns(rank_track(moved))["moved weights %"]
        assert sorted(column.cells) == ["100.0", "50.0"]
        assert not any(column.best)

    def test_state_is_shown_in_megabytes(self, ranking):
        assert columns(ranking)["extra state MB"].cells[2] == "3.0"

    def test_partly_defined_values_say_of_how_many_runs(self, make_run):
        partly = rank_track([make_run(references=(75, 85)), make_run(seed=1)])
        assert columns(partly)["intransigence"].cells == ("5.0 (n=1)",)

    def test_nothing_rounds_to_minus_zero(self, make_run):
        ranking = rank_track([make_run(scores=(69.99, 80))])
        assert columns(ranking)["backward transfer"].cells == ("0.0",)

    def test_order_sensitivity_is_shown_with_two_orders(self, make_run):
        ranking = rank_track(
            [make_run(scores=(50, 60)), make_run(scores=(50, 90), order=("b", "a"))]
        )
        assert columns(ranking)["order sensitivity"].cells == ("25.0 / 40.0",)

    def test_another_measure_that_ranks_is_shown_first(self, runs):
        shown = list(columns(rank_track(runs, "worst_task_drop")))
        assert shown[:4] == ["rank", "strategy", "runs", "worst task drop"]

    def test_marks_are_explained(self, ranking):
        assert columns(ranking)["strategy"].cells == ("epi", "ewc ‡", "wise (share=a|b) †‡")
        text = "\n".join(legend([ranking]))
        assert "† made from a checkout with changed files." in text
        assert "‡ fewer" in text

    def test_tasks_that_a_mean_leaves_out_are_counted(self, make_run):
        ranking = rank_track([make_run(references=(0, 85))])
        assert any("normalised score" in line and "epi 1" in line for line in legend([ranking]))

    def test_single_runs_are_said_to_prove_nothing(self, make_run):
        assert any("single run" in line for line in legend([rank_track([make_run()])]))


class TestTerminal:
    def test_best_values_carry_a_star_without_colour(self, ranking):
        text = printed([ranking], 240)
        assert "70.5 ± 1.2 ★" in text
        assert "\x1b" not in text

    @pytest.mark.parametrize("width", [60, 80, 100, 120, 240])
    def test_fits_the_terminal_and_cuts_no_number(self, ranking, width):
        text = printed([ranking], width)
        assert max(map(len, text.splitlines())) <= width
        assert "70.5 ± 1.2 ★" in text

    def test_columns_left_out_are_named(self, ranking):
        assert "Not shown for lack of width" in printed([ranking], 80)
        assert "Not shown" not in printed([ranking], 240)

    def test_the_legend_gives_the_formulas_once(self, ranking, make_run):
        other = rank_track([make_run(stream="mixed")])
        text = printed([ranking, other], 240)
        assert text.count("backward transfer: mean over i<T of R[T,i] - R[i,i].") == 1


class TestMarkdown:
    def test_rows_have_as_many_cells_as_the_head(self, ranking):
        rows = [line for line in to_markdown(ranking).splitlines() if line.startswith("|")]
        assert len(rows) == 2 + 3
        assert len({row.replace("\\|", "").count("|") for row in rows}) == 1

    def test_the_best_is_bold_and_starred(self, ranking):
        assert "**70.5 ± 1.2** ★" in to_markdown(ranking)


class TestExport:
    def test_csv(self, ranking):
        rows = list(csv.DictReader(io.StringIO(to_csv([ranking]))))
        assert [(row["rank"], row["strategy"], row["pairs"]) for row in rows] == [
            ("1", "epi", "3"),
            ("2", "ewc", "2"),
            ("2", "wise (share=a|b)", "1"),
        ]
        assert float(rows[0]["average_accuracy"]) == 70.5
        assert rows[1]["intransigence"] == ""
        assert rows[1]["intransigence_n"] == "0"
        assert float(rows[0]["extra_state_bytes"]) == 3 * 2**20
        assert rows[2]["marks"] == "dirty fewer"

    def test_json(self, ranking):
        (track,) = json.loads(to_json([ranking]))["tracks"]
        assert track["track"] == ranking.track
        first = track["entries"][0]
        assert first["values"]["average_accuracy"]["mean"] == 70.5
        assert first["values"]["interference"] == {"mean": None, "half_width": None, "n": 0}
        assert [(c["first"], c["second"], c["pairs"]) for c in track["comparisons"]] == [
            ("epi", "ewc", 2),
            ("epi", "wise (share=a|b)", 1),
            ("ewc", "wise (share=a|b)", 1),
        ]

    def test_json_holds_every_metric_of_every_task(self, make_run):
        runs = [
            make_run(seed=seed, secondary_scores={"a": {"chrf": chrf, "loss": loss}, "b": {}})
            for seed, chrf, loss in ((0, 0.25, None), (1, 0.75, 2.0))
        ]
        (track,) = json.loads(to_json([rank_track(runs)]))["tracks"]
        secondary = track["entries"][0]["secondary_scores"]
        assert secondary.keys() == {"a"}
        assert secondary["a"]["loss"] == {"mean": 2.0, "half_width": None, "n": 1}
        chrf = secondary["a"]["chrf"]
        assert (chrf["mean"], chrf["n"]) == (0.5, 2)
        # Half-width by Student: 12.7062 (95 %, one degree of freedom) times 0.25.
        assert chrf["half_width"] == pytest.approx(12.7062 * 0.25, rel=1e-4)


class TestRenderedFiles:
    def test_an_index_and_two_files_for_each_track(self, root):
        published = load_published(root)
        files = rendered_files(published)
        expected = {"README.md"}
        for track in published.tracks:
            expected |= {f"{track}/README.md", f"{track}/results.csv"}
            assert f"[{track}]({track}/README.md)" in files[next(iter(files))]
        assert {path.as_posix() for path in files} == expected

    def test_writing_twice_changes_nothing(self, root):
        assert len(write_rendered_files(load_published(root))) == 5
        published = load_published(root)
        assert published.problems == ()
        assert write_rendered_files(published) == []

    def test_a_new_record_makes_only_its_track_and_the_index_stale(self, root, make_run):
        write_rendered_files(load_published(root))
        publish(make_run(stream="mixed", seed=5), root)
        changed = {p.relative_to(root).parts[0] for p in write_rendered_files(load_published(root))}
        assert changed == {"README.md", make_run(stream="mixed").track.name}


class TestCommand:
    @pytest.fixture
    def call(self):
        app = typer.Typer()
        app.command()(leaderboard)
        return lambda *arguments: CliRunner().invoke(app, [str(part) for part in arguments])

    @pytest.mark.parametrize("kind", ["table", "markdown", "csv", "json"])
    def test_every_format_shows_every_track(self, call, root, kind):
        result = call(root, "--format", kind)
        assert result.exit_code == 0
        for track in load_published(root).tracks:
            assert track in result.stdout

    def test_output_file_holds_what_would_be_printed(self, call, root, tmp_path):
        for kind in ("table", "csv"):
            file = tmp_path / f"out.{kind}"
            assert call(root, "--format", kind, "--output", file).stdout == ""
            assert file.read_text(encoding="utf-8") == call(root, "--format", kind).stdout

    def test_one_track(self, call, root, make_run):
        mixed = make_run(stream="mixed").track.name
        result = call(root, "--track", mixed, "--format", "csv")
        assert {row["track"] for row in csv.DictReader(io.StringIO(result.stdout))} == {mixed}

    def test_sort(self, call, root):
        result = call(root, "--sort", "training_seconds", "--format", "csv")
        rows = csv.DictReader(io.StringIO(result.stdout))
        assert next(row["strategy"] for row in rows if "sequential" in row["track"]) == "ewc"

    def test_unknown_names_are_user_errors_with_the_closest_ones(self, call, root, make_run):
        mixed = make_run(stream="mixed").track.name
        wrong_track = call(root, "--track", mixed[:-1]).exception
        assert isinstance(wrong_track, UserError)
        assert f"did you mean '{mixed}'" in str(wrong_track)
        wrong_metric = call(root, "--sort", "forgeting").exception
        assert isinstance(wrong_metric, UserError)
        assert "did you mean 'forgetting'" in str(wrong_metric)

    def test_broken_files_are_warned_of_and_the_rest_is_shown(self, call, root, make_run):
        (root / make_run().track.name / "broken.json").write_text("")
        result = call(root)
        assert result.exit_code == 0
        assert result.stderr.count("warning") == 1
        assert "broken.json" in result.stderr

    def test_nothing_but_broken_files(self, call, tmp_path):
        (tmp_path / "track").mkdir()
        (tmp_path / "track" / "broken.json").write_text("")
        result = call(tmp_path)
        assert isinstance(result.exception, UserError)
        assert "no readable record" in str(result.exception)

    def test_update(self, call, root):
        assert "wrote" in call(root, "--update").stdout
        assert "up to date" in call(root, "--update").stdout

"""A ranking as a table with its legend, as markdown, CSV, JSON and pages."""

from __future__ import annotations

import csv
import io
import json

import pytest

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
from epi_bench.results.leaderboard.table import ranking_table, table_columns


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

    def test_what_was_kept_has_columns_where_a_track_has_eval_tasks(self, make_run, ranking):
        assert "task retention" not in columns(ranking)
        kept = rank_track([make_run("epi", kept=48), make_run("ewc", kept=20)])
        assert columns(kept)["task retention"].cells == ("-1.0", "-15.0")  # d kept all
        assert columns(kept)["worst task retention"].cells == ("-2.0", "-30.0")
        assert columns(kept)["task retention"].best == (True, False)
        assert "scored and never trained: c, d" in to_markdown(kept)
        assert "scored and never trained" not in to_markdown(ranking)

    def test_csv_has_columns_of_eval_tasks_where_there_are_any(self, make_run, ranking):
        heads = [to_csv([r]).splitlines()[0] for r in (ranking, rank_track([make_run(kept=48)]))]
        assert ["task_retention_half_width" in head for head in heads] == [False, True]

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

    def test_another_measure_that_ranks_is_shown_first(self, board_runs):
        shown = list(columns(rank_track(board_runs, "worst_task_drop")))
        assert shown[:4] == ["rank", "strategy", "runs", "worst task drop"]

    def test_marks_are_explained(self, ranking):
        assert columns(ranking)["strategy"].cells == ("epi", "ewc ‡", "wise (share=a|b) †‡")
        text = "\n".join(legend([ranking_table(ranking)]))
        assert "† made from a checkout with changed files." in text
        assert "‡ fewer" in text

    def test_tasks_that_a_mean_leaves_out_are_counted(self, make_run):
        ranking = rank_track([make_run(references=(0, 85))])
        assert any(
            "normalised score" in line and "epi 1" in line
            for line in legend([ranking_table(ranking)])
        )

    def test_single_runs_are_said_to_prove_nothing(self, make_run):
        assert any(
            "single run" in line for line in legend([ranking_table(rank_track([make_run()]))])
        )


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
    def test_an_index_and_two_files_for_each_track(self, board):
        published = load_published(board)
        files = rendered_files(published)
        expected = {"README.md"}
        for track in published.tracks:
            expected |= {f"{track}/README.md", f"{track}/results.csv"}
            assert f"[{track}]({track}/README.md)" in files[next(iter(files))]
        assert {path.as_posix() for path in files} == expected

    def test_writing_twice_changes_nothing(self, board):
        assert len(write_rendered_files(load_published(board))) == 5
        published = load_published(board)
        assert published.problems == ()
        assert write_rendered_files(published) == []

    def test_a_new_record_makes_only_its_track_and_the_index_stale(self, board, make_run):
        write_rendered_files(load_published(board))
        publish(make_run(stream="mixed", seed=5), board)
        changed = {
            p.relative_to(board).parts[0] for p in write_rendered_files(load_published(board))
        }
        assert changed == {"README.md", make_run(stream="mixed").track.name}

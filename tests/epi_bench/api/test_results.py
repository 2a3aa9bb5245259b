"""Results: ranking, data frames at three grains, paired differences, folders."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

import epi_bench
from epi_bench.api.results import Results
from epi_bench.errors import UserError
from epi_bench.results.leaderboard import publish
from epi_bench.results.record.items import pack_items
from epi_bench.results.record.record_file import save_record
from epi_bench.runs.request import RunOutcome

RUN = ["track", "strategy", "adapter", "label", "seed", "task_order", "run_id"]


@pytest.fixture
def results(make_run):
    """Two strategies with two seeds: epi is 10 and 20 better, 15 on average."""
    return Results(
        (
            make_run("epi", (70.0, 80.0), seed=0),
            make_run("full_sft", (50.0, 80.0), seed=0),
            make_run("epi", (70.0, 90.0), seed=1),
            make_run("full_sft", (50.0, 70.0), seed=1),
        )
    )


def test_the_ranking_is_the_leaderboards(results):
    ranking = results.ranking()
    assert [entry.label for entry in ranking.entries] == ["epi", "full_sft"]
    assert [entry.values["average_accuracy"].mean for entry in ranking.entries] == [77.5, 62.5]
    assert results.ranking("training_seconds").measure == "training_seconds"
    with pytest.raises(UserError, match="unknown metric 'forgeting': did you mean 'forgetting"):
        results.ranking("forgeting")


def test_the_difference_is_paired(results):
    found = results.difference("epi", "full_sft")
    assert (found.n, found.mean_difference) == (2, 15.0)  # (75 - 65 + 80 - 60) / 2
    assert results.difference("full_sft", "epi").mean_difference == -15.0
    with pytest.raises(UserError, match=r"'ebi'.*did you mean 'epi'"):
        results.difference("ebi", "full_sft")


def test_one_seed_each_is_compared_on_the_test_items(make_run):
    items = {"a": [100.0, 0.0, 100.0, 100.0], "b": [100.0, 100.0, 0.0, 100.0]}
    worse = {"a": [0.0, 0.0, 100.0, 100.0], "b": [0.0, 100.0, 0.0, 100.0]}

    def packed(scores):
        return {t: pack_items({str(i): s for i, s in enumerate(v)}) for t, v in scores.items()}

    pair = Results(
        (
            make_run("epi", (75.0, 75.0), item_scores=packed(items)),
            make_run("full_sft", (50.0, 50.0), item_scores=packed(worse)),
        )
    )
    found = pair.difference("epi", "full_sft")
    assert (found.n, found.mean_difference, found.p_value) == (1, 25.0, None)
    assert found.items.mean_difference == 25.0
    assert found.items.low < 25.0 < found.items.high
    frame = pair.to_frame("item")
    assert list(frame.columns) == [*RUN, "task", "item", "score", "trained"]
    assert len(frame) == 16
    means = frame.groupby(["strategy", "task"])["score"].mean()
    assert means["epi", "a"] == 75.0
    assert means["full_sft", "b"] == 50.0


def test_a_row_a_run(results):
    frame = results.to_frame()
    assert list(frame.columns[: len(RUN)]) == RUN
    assert len(frame) == 4
    means = frame.groupby("strategy")[["average_accuracy", "learning_accuracy"]].mean()
    assert means.loc["epi", "average_accuracy"] == 77.5
    assert means.loc["epi", "learning_accuracy"] == 77.5  # a learned at 70, b at 80 and 90
    assert set(frame["task_order"]) == {"a, b"}
    assert set(frame["training_seconds"]) == {10.0}


def test_a_row_a_cell_of_the_score_matrix(results):
    frame = results.select(strategy="epi", seed=0).to_frame("score")
    assert len(frame) == 6  # base and two experiences, two tasks
    table = frame.pivot(index="position", columns="task", values="score")
    assert table.to_numpy().tolist() == [[0.0, 25.0], [70.0, 20.0], [70.0, 80.0]]
    assert frame["row"].tolist() == ["base", "base", "a", "a", "b", "b"]
    assert frame["learned"].tolist() == [False, False, True, False, True, True]


def test_tasks_that_were_never_trained_are_marked_in_frames(make_run):
    results = epi_bench.Results((make_run(kept=48.0),))
    assert results.to_frame()["task_retention"].tolist() == [-1.0]
    cells = results.to_frame("score")
    assert len(cells) == 3 * 4
    untrained = cells[~cells["trained"]]
    table = untrained.pivot(index="position", columns="task", values="score")
    assert table.to_numpy().tolist() == [[50.0, 40.0], [45.0, 41.0], [48.0, 40.0]]
    assert not untrained["learned"].any()
    items = results.to_frame("item")
    assert items.groupby(["task", "trained"])["score"].mean().to_dict() == {("d", False): 40.0}


def test_the_balanced_accuracy_of_tasks_that_label_texts(make_run):
    """Labels of 4 and 1 items, 3 and 1 of them right: (75 + 100) / 2; plain accuracy is 80."""
    confusion = {"b": {"labels": ["x", "y"], "counts": [[3, 1], [0, 1]]}}
    frame = epi_bench.Results((make_run(confusion=confusion),)).to_frame("score")
    found = frame["balanced_accuracy"]
    assert found.tolist()[-1] == 87.5
    assert found.isna().tolist() == [True] * 5 + [False]


def test_an_unknown_grain_is_refused(results):
    with pytest.raises(UserError, match="unknown grain 'items': did you mean 'item'"):
        results.to_frame("items")


def test_selecting(results):
    assert len(results.select(strategy="epi")) == 2
    assert [record.spec.seed for record in results.select(seed=1)] == [1, 1]
    assert results.select(track=results.tracks[0]).records == results.records
    with pytest.raises(UserError, match="unknown strategy 'epy': did you mean 'epi'"):
        results.select(strategy="epy")
    assert isinstance(results[:2], Results)
    assert results[0].strategy.name == "epi"


def test_tracks_are_never_ranked_together(make_run):
    mixed = Results((make_run(), make_run(stream="mixed")))
    first, second = mixed.tracks
    with pytest.raises(UserError, match=re.escape(f"one of '{first}', '{second}'")):
        mixed.ranking()
    assert mixed.ranking(track=second).track == second
    assert mixed.to_frame()["track"].nunique() == 2
    assert first in repr(mixed)
    assert second in mixed._repr_html_()


def test_labels_of_the_callers_own(make_run):
    first, second = make_run(options={"ratio": 0.1}), make_run(options={"ratio": 0.3})
    results = Results(
        (first, second), labels={first.run_id: "weak", second.run_id: "[b]strong[/b]"}
    )
    assert {entry.label for entry in results.ranking().entries} == {"weak", "[b]strong[/b]"}
    assert results.difference("weak", "[b]strong[/b]").n == 1
    assert results.select(label="weak").records == (first,)
    assert set(results.to_frame()["label"]) == {"weak", "[b]strong[/b]"}
    assert "[b]strong[/b]" in repr(results)  # text stays text
    unnamed = Results((first, second))
    assert {unnamed.label_of(record) for record in unnamed} == {
        "epi (ratio=0.1)",
        "epi (ratio=0.3)",
    }


def test_shown_as_a_ranking(results, make_run):
    shown = repr(results)
    lines = shown.splitlines()
    assert [line.split()[1] for line in lines if line.strip().startswith(("1 ", "2 "))] == [
        "epi", "full_sft",
    ]  # fmt: skip
    console = Console(file=io.StringIO(), width=100)
    console.print(results)
    assert console.file.getvalue().strip() == shown.strip()
    html = results._repr_html_()
    assert html.count("<tr>") == 3
    assert "77.5" in html
    wild = Results((make_run(),), problems=("<script>[red]x",))
    assert "&lt;script&gt;[red]x" in wild._repr_html_()
    assert "<script>[red]x" in repr(wild)


def test_failures_are_shown_and_no_run_is_said_plainly(make_run):
    failed = make_run(
        status="failed", error="loss is nan", score_matrix=None, metrics={}, cost=None
    )
    results = Results((), (RunOutcome(failed.spec, failed),))
    assert repr(results) == "no finished run\nfailed: epi, seed 0: loss is nan"
    with pytest.raises(UserError, match="no finished run"):
        results.ranking()
    assert len(results.to_frame()) == 0


class TestLoading:
    def test_a_board_a_track_and_what_holds_them(self, tmp_path, results):
        root = tmp_path / "leaderboards"
        for record in results:
            track = publish(record, root).parent
        (track / "broken.json").write_text("{")
        for folder in (root, track, tmp_path):
            loaded = epi_bench.load_results(folder)
            assert {r.run_id for r in loaded} == {r.run_id for r in results}
            assert len(loaded.problems) == 1
            assert "broken.json" in loaded.problems[0]

    def test_a_runs_folder(self, tmp_path, make_run):
        failed = make_run("ewc", status="failed", error="no", score_matrix=None, metrics={},
                          cost=None)  # fmt: skip
        finished = make_run()
        for record in (finished, failed):
            folder = tmp_path / "runs" / record.run_id
            folder.mkdir(parents=True)
            save_record(record, folder / "record.json")
        for folder in (tmp_path, tmp_path / "runs"):
            loaded = epi_bench.load_results(folder)
            assert loaded.records == (finished,)
            assert [outcome.record for outcome in loaded.failures] == [failed]
        assert epi_bench.load_record(tmp_path / "runs" / finished.run_id) == finished
        path = tmp_path / "runs" / failed.run_id / "record.json"
        assert epi_bench.load_record(str(path)) == failed

    def test_nothing_there(self, tmp_path):
        with pytest.raises(UserError, match="does not exist"):
            epi_bench.load_results(tmp_path / "nowhere")
        with pytest.raises(UserError, match="holds no records"):
            epi_bench.load_results(tmp_path)
        with pytest.raises(UserError, match="cannot read"):
            epi_bench.load_record(tmp_path / "record.json")

"""Published records: stored by track, grouped into configurations, ranked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from epi_bench.errors import UserError
from epi_bench.results import leaderboard as lb


class TestStore:
    def test_published_records_come_back_by_track(self, make_run, tmp_path):
        runs = [make_run(seed=0), make_run(seed=1), make_run(stream="mixed")]
        for run in runs:
            path = lb.publish(run, tmp_path)
            assert path == tmp_path / run.track.name / f"{run.run_id}.json"
        published = lb.load_published(tmp_path)
        assert published.problems == ()
        assert set(published.tracks) == {run.track.name for run in runs}
        found = [run for track in published.tracks.values() for run in track]
        assert sorted(found, key=lambda run: run.run_id) == sorted(runs, key=lambda run: run.run_id)

    def test_publishing_again_replaces(self, make_run, tmp_path):
        first, again = make_run(scores=(10, 10)), make_run(scores=(20, 20))
        lb.publish(first, tmp_path)
        lb.publish(again, tmp_path)
        assert lb.load_published(tmp_path).tracks == {again.track.name: [again]}

    def test_failed_runs_are_not_published(self, make_run, tmp_path):
        failed = make_run(status="failed", error="x", score_matrix=None, metrics={}, cost=None)
        with pytest.raises(UserError, match="only finished runs"):
            lb.publish(failed, tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_broken_and_misplaced_files_are_left_out_with_one_line_each(self, make_run, tmp_path):
        good = make_run()
        path = lb.publish(good, tmp_path)
        (path.parent / "broken.json").write_text("{")
        (path.parent / "copy.json").write_bytes(path.read_bytes())
        elsewhere = tmp_path / "elsewhere" / path.name
        elsewhere.parent.mkdir()
        elsewhere.write_bytes(path.read_bytes())
        tampered = json.loads(path.read_text())
        tampered["track"]["facts"]["steps"] = 7
        tampered["run_id"] = "tampered"
        (path.parent / "tampered.json").write_text(json.dumps(tampered))
        published = lb.load_published(tmp_path)
        assert published.tracks == {good.track.name: [good]}
        assert len(published.problems) == 4
        for name, line in zip(
            ("broken", "copy", "tampered", "elsewhere"), published.problems, strict=True
        ):
            assert name in line
            assert "\n" not in line

    def test_a_missing_or_empty_folder_says_what_to_do(self, make_run, tmp_path):
        with pytest.raises(UserError, match=r"does not exist; make results with `epi-bench run`"):
            lb.load_published(tmp_path / "none")
        with pytest.raises(UserError, match=r"no records; make results with `epi-bench run`"):
            lb.load_published(tmp_path)
        path = lb.publish(make_run(), tmp_path)
        with pytest.raises(UserError, match="give its parent folder"):
            lb.load_published(path.parent)


class TestConfiguration:
    def labels(self, runs):
        return {label: len(group) for label, group in lb.group_by_configuration(runs).items()}

    def test_seeds_and_orders_are_repetitions(self, make_run):
        runs = [make_run(), make_run(seed=1), make_run(order=("b", "a"))]
        assert self.labels(runs) == {"epi": 3}

    def test_options_tell_entries_apart(self, make_run):
        runs = [make_run(), make_run(options={"ratio": 0.3}), make_run("ewc")]
        assert self.labels(runs) == {"epi": 1, "epi (ratio=0.3)": 1, "ewc": 1}

    def test_a_default_said_aloud_is_the_same_configuration(self, make_run):
        runs = [make_run(), make_run(seed=1, options={"ratio": 0.5})]
        assert self.labels(runs) == {"epi": 2}

    def test_optimizer_settings_tell_entries_apart(self, make_run):
        runs = [make_run(), make_run(training={"learning_rate": 3e-4, "optimizer": "sgd"})]
        assert self.labels(runs) == {"epi": 1, "epi (learning_rate=0.0003, optimizer=sgd)": 1}

    def test_the_way_to_the_batch_is_no_setting(self, make_run):
        runs = [make_run(), make_run(training={"batch_size": 12, "accumulation": 2})]
        assert self.labels(runs) == {"epi": 2}

    def test_whole_numbers_are_equal_however_written(self, make_run):
        runs = [make_run(options={"interval": 20}), make_run(options={"interval": 20.0}, seed=1)]
        assert self.labels(runs) == {"epi (interval=20)": 2}

    def test_plugins_of_different_code_are_not_averaged(self, make_run):
        runs = [make_run("mine", source="plugin", plugin=code * 16) for code in ("aa", "bb")]
        assert self.labels(runs) == {"mine (code=aaaaaaaa)": 1, "mine (code=bbbbbbbb)": 1}

    def test_defaults_that_changed_between_versions_are_shown(self, make_run):
        old = make_run(
            strategy="epi",
            run_id="old",
        )
        changed = old.strategy.model_copy(update={"hyperparameters": {"ratio": 0.9}})
        runs = [make_run(), old.model_copy(update={"strategy": changed})]
        assert self.labels(runs) == {
            "epi (interval=20, ratio=0.5)": 1,
            "epi (interval=null, ratio=0.9)": 1,
        }


class TestRanking:
    def test_means_and_intervals_are_over_pairs_of_seed_and_order(self, make_run):
        runs = [
            make_run(scores=(50, 70)),
            make_run(scores=(60, 80), seed=1),
            make_run(scores=(70, 90), order=("b", "a")),
        ]
        entry = lb.rank_track(runs).entries[0]
        accuracy = entry.values["average_accuracy"]
        assert (accuracy.mean, accuracy.n, entry.runs) == (70, 3, 3)
        assert accuracy.half_width == pytest.approx(24.8414, abs=1e-4)
        assert entry.values["training_seconds"].mean == 10
        assert entry.values["extra_state_bytes"].mean == 3 * 2**20

    def test_runs_of_the_same_pair_count_once(self, make_run):
        twice = make_run(scores=(40, 40), run_id="again")
        entry = lb.rank_track([make_run(scores=(60, 60)), twice, make_run(seed=1)]).entries[0]
        accuracy = entry.values["average_accuracy"]
        assert (entry.runs, len(entry.pairs), accuracy.n) == (3, 2, 2)
        assert accuracy.mean == (50 + 70) / 2

    def test_undefined_metrics_stay_undefined(self, make_run):
        entry = lb.rank_track([make_run(stream="mixed")]).entries[0]
        assert entry.values["backward_transfer"] is None

    def test_a_metric_that_some_runs_define_counts_those(self, make_run):
        runs = [make_run(references=(75, 85)), make_run(seed=1)]
        entry = lb.rank_track(runs).entries[0]
        assert entry.values["intransigence"].n == 1

    def noisy(self, make_run, strategy, mean, **changes):
        shared, own = [0, 9, -7, 4], {"epi": [0, 1, 0, 1], "ewc": [1, 0, 1, 0], "sft": [0, 0, 1, 1]}
        return [
            make_run(strategy, (mean + shared[i] + own[strategy][i], 70), seed=i, **changes)
            for i in range(4)
        ]

    def test_strategies_that_cannot_be_told_apart_share_a_rank(self, make_run):
        runs = [
            *self.noisy(make_run, "epi", 60),
            *self.noisy(make_run, "ewc", 59.8),
            *self.noisy(make_run, "sft", 30),
        ]
        ranking = lb.rank_track(runs)
        assert [(e.label, e.rank) for e in ranking.entries] == [("epi", 1), ("ewc", 1), ("sft", 3)]
        assert ranking.comparisons["epi", "sft"].significant
        assert ranking.comparisons["epi", "sft"].n == 4

    def test_single_runs_share_the_first_rank_in_order_of_their_value(self, make_run):
        ranking = lb.rank_track([make_run("ewc", (50, 50)), make_run("epi", (60, 60))])
        assert [(e.label, e.rank) for e in ranking.entries] == [("epi", 1), ("ewc", 1)]

    def test_ranking_by_a_measure_where_less_is_better(self, make_run):
        slow = make_run("epi", (70, 70), seconds=20.0)
        fast = make_run("ewc", (50, 50), seconds=5.0)
        ranking = lb.rank_track([slow, fast], "training_seconds")
        assert [entry.label for entry in ranking.entries] == ["ewc", "epi"]

    def test_entries_without_a_value_come_last_and_have_no_rank(self, make_run):
        runs = [make_run("ewc", references=(75, 85)), make_run("epi")]
        ranking = lb.rank_track(runs, "intransigence")
        assert [(e.label, e.rank) for e in ranking.entries] == [("ewc", 1), ("epi", None)]

    def test_the_order_of_files_does_not_count(self, make_run):
        runs = [*self.noisy(make_run, "epi", 60), *self.noisy(make_run, "ewc", 60)]
        assert lb.rank_track(runs) == lb.rank_track(runs[::-1])

    def test_marks(self, make_run):
        runs = [make_run(seed=0), make_run(seed=1), make_run("ewc", dirty=True)]
        marks = {entry.label: entry.marks for entry in lb.rank_track(runs).entries}
        assert marks == {"epi": (), "ewc": ("dirty", "fewer")}

    def test_a_strategy_that_sees_all_tasks_is_marked(self, make_run):
        run = make_run()
        joint = run.strategy.model_copy(update={"sees_all_tasks": True})
        (entry,) = lb.rank_track([run.model_copy(update={"strategy": joint})]).entries
        assert entry.marks == ("joint",)

    def test_order_sensitivity_averages_the_seeds_of_an_order_first(self, make_run):
        runs = [
            make_run(scores=(50, 70), order=("a", "b")),
            make_run(scores=(60, 70), order=("a", "b"), seed=1),
            make_run(scores=(40, 85), order=("b", "a")),
        ]
        # a: 55 against 85 (columns follow the order), b: 70 against 40
        assert lb.rank_track(runs).entries[0].order_sensitivity == (30, 30)
        assert lb.rank_track(runs[:2]).entries[0].order_sensitivity is None

    def test_unknown_measure(self, make_run):
        with pytest.raises(UserError, match="did you mean 'forgetting'"):
            lb.rank_track([make_run()], "forgeting")

    def test_tracks_are_never_mixed(self, make_run):
        with pytest.raises(ValueError, match="one track"):
            lb.rank_track([make_run(), make_run(stream="mixed")])


def test_measures_are_those_that_a_record_has(make_run):
    record = make_run(references=(75, 85), kept=45)
    for measure in lb.MEASURES.values():
        keys = record.cost.model_dump() if measure.cost else record.metrics
        assert measure.name in (type(record).model_fields if measure.diagnostic else keys)


def test_the_analysis_imports_neither_torch_nor_scipy():
    modules = ["results.metrics.statistics", "results.leaderboard.pages", "cli.leaderboard"]
    code = f"""
import sys
for module in {modules}:
    __import__("epi_bench." + module)
heavy = ("torch", "transformers", "datasets", "avalanche", "accelerate", "scipy", "pandas")
print([name for name in heavy if name in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[4],
    )
    assert result.stdout.strip() == "[]"

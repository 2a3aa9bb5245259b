"""Two strategies of a track, paired by seed and task order."""

from __future__ import annotations

import pytest

from epi_bench.errors import UserError
from epi_bench.results.leaderboard import compare, compare_with_others, rank_track
from epi_bench.results.record.items import pack_items


def runs(make_run, strategy, finals, **changes):
    """One run a seed, whose average accuracy is the mean of these scores and 80."""
    return [make_run(strategy, (score, 80), seed=i, **changes) for i, score in enumerate(finals)]


class TestCompare:
    def test_hand_computed(self, make_run):
        # Differences of the first task 10, 14, 18; of the mean of two tasks 5, 7, 9: s = 2,
        # t = 7 / (2 / sqrt(3)) = 6.0622, p = 0.02615 by Student with 2 degrees of freedom,
        # half width 4.30265 * 2 / sqrt(3) = 4.96828.
        first = runs(make_run, "epi", (60, 64, 68))
        second = runs(make_run, "ewc", (50, 50, 50))
        found = compare(first, second)
        assert (found.n, found.mean_difference) == (3, 7)
        assert found.p_value == pytest.approx(0.02615, abs=1e-5)
        assert found.half_width == pytest.approx(4.96828, abs=1e-5)
        assert found.interval == pytest.approx((2.03172, 11.96828), abs=1e-5)
        assert found.items is None

    def test_only_pairs_that_both_have_count(self, make_run):
        first = [*runs(make_run, "epi", (60, 64)), make_run("epi", (0, 0), order=("b", "a"))]
        assert compare(first, runs(make_run, "ewc", (50, 50, 99))).n == 2

    def test_a_cost_is_compared_like_a_metric(self, make_run):
        slow, fast = make_run("epi", seconds=20.0), make_run("ewc", seconds=5.0)
        assert compare([slow], [fast], "training_seconds").mean_difference == 15

    def test_a_single_pair_is_compared_on_its_items(self, make_run):
        def items(first, second):
            return {
                "a": pack_items({str(i): score for i, score in enumerate(first)}),
                "b": pack_items({str(i): score for i, score in enumerate(second)}),
            }

        better = make_run("epi", item_scores=items([100.0] * 4, [0.0, 100.0]))
        worse = make_run("ewc", item_scores=items([0.0, 0.0, 100.0, 100.0], [0.0, 100.0]))
        found = compare([better], [worse])
        assert found.p_value is None
        assert found.interval is None
        assert (found.items.n, found.items.mean_difference) == (6, 25)
        assert 0 <= found.items.low < 25 < found.items.high <= 50
        assert compare([better], [worse], "forgetting").items is None

    def test_the_ranking_finds_the_same_difference(self, make_run):
        first = runs(make_run, "epi", (60, 64, 68))
        second = runs(make_run, "ewc", (50, 51, 50))
        ranked = rank_track([*first, *second]).comparisons["epi", "ewc"]
        found = compare(first, second)
        assert (found.mean_difference, found.p_value) == (ranked.mean_difference, ranked.p_value)

    def test_tracks_are_never_mixed(self, make_run):
        with pytest.raises(ValueError, match="one track"):
            compare([make_run()], [make_run("ewc", stream="mixed")])


class TestCompareWithOthers:
    @pytest.fixture
    def track(self, make_run):
        return [
            *runs(make_run, "epi", (60, 64, 68)),
            *runs(make_run, "ewc", (50, 51, 55)),
            *runs(make_run, "sft", (70, 73, 75)),
            *runs(make_run, "epi", (10, 11, 12), options={"ratio": 0.3}),
        ]

    def test_the_one_furthest_ahead_comes_first(self, track):
        found = compare_with_others(track, "ewc")
        assert [other.label for other in found] == ["sft", "epi", "epi (ratio=0.3)"]

    def test_p_values_are_corrected_over_the_table(self, track):
        rows = compare_with_others(track, "ewc")
        values = sorted(row.comparisons["average_accuracy"].p_value for row in rows)
        adjusted = [row.comparisons["average_accuracy"].adjusted_p_value for row in rows]
        assert min(adjusted) == pytest.approx(3 * values[0])
        (alone,) = compare_with_others(track, "ewc", ["sft"])
        only = alone.comparisons["average_accuracy"]
        assert only.adjusted_p_value == only.p_value

    def test_wrong_names_are_user_errors(self, track, make_run):
        with pytest.raises(UserError, match="unknown strategy of this track 'sfd': did you mean"):
            compare_with_others(track, "sfd")
        with pytest.raises(UserError, match="with itself"):
            compare_with_others(track, "ewc", ["ewc"])
        with pytest.raises(UserError, match="unknown metric 'forgeting'"):
            compare_with_others(track, "ewc", measures=["forgeting"])
        with pytest.raises(UserError, match="the track holds epi alone"):
            compare_with_others([make_run()], "epi")

    def test_a_name_that_stands_for_several_settings_must_be_more_precise(self, make_run):
        track = [make_run("ewc"), *(make_run(options={"ratio": r}) for r in (0.3, 0.4))]
        with pytest.raises(UserError, match=r"with 2 settings; name one: 'epi \(ratio=0\.3\)'"):
            compare_with_others(track, "epi")

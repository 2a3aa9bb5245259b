"""Intervals, paired tests, Holm's correction and shared ranks."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epi_bench.results.metrics import statistics as s

patient = settings(deadline=None)
values = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, max_size=8)


class TestMeanInterval:
    def test_hand_computed(self):
        # mean 20, s = 10, t(0.975, 2) = 4.302653: half width 10 / sqrt(3) * 4.302653
        found = s.mean_interval([10.0, 20.0, 30.0])
        assert found.mean == 20
        assert found.half_width == pytest.approx(24.8414, abs=1e-4)
        assert found.n == 3

    def test_a_single_value_has_no_interval(self):
        assert s.mean_interval([5.0]) == s.Interval(5.0, None, 1)

    def test_no_value_has_no_mean(self):
        assert s.mean_interval([]) is None

    def test_equal_values_have_no_width(self):
        assert s.mean_interval([3.0, 3.0, 3.0]).half_width == 0

    @patient
    @given(values, st.sampled_from([0.8, 0.95, 0.99]))
    def test_agrees_with_scipy(self, sample, confidence):
        from scipy import stats

        found = s.mean_interval(sample, confidence)
        error = stats.sem(sample)
        expected = error * stats.t.ppf(0.5 + confidence / 2, len(sample) - 1)
        assert found.half_width == pytest.approx(expected, abs=1e-9)

    def test_covers_as_often_as_it_says(self):
        generator = random.Random("coverage")
        hits = 0
        for _ in range(2000):
            interval = s.mean_interval([generator.gauss(50, 10) for _ in range(4)])
            hits += abs(interval.mean - 50) <= interval.half_width
        assert hits / 2000 == pytest.approx(0.95, abs=0.015)


class TestCompare:
    def test_only_common_repetitions_count(self):
        found = s.compare({0: 10.0, 1: 14.0, 2: 99.0}, {0: 8.0, 1: 9.0, 7: 0.0})
        assert (found.n, found.mean_difference) == (2, 3.5)

    def test_nothing_in_common(self):
        assert s.compare({0: 1.0}, {1: 1.0}) == s.Comparison(0, None, None)

    def test_one_pair_or_identical_differences_test_nothing(self):
        assert s.compare({0: 1.0}, {0: 2.0}) == s.Comparison(1, -1.0, None)
        same = s.compare({0: 0.1 + 0.2, 1: 5.3, 2: 7.3}, {0: 0.0, 1: 5.0, 2: 7.0})
        assert same.p_value is None
        assert s.compare({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p_value is None

    @patient
    @given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=2, max_size=8))
    def test_agrees_with_the_paired_test_of_scipy(self, pairs):
        from scipy import stats

        first, second = ({k: float(pair[i]) for k, pair in enumerate(pairs)} for i in (0, 1))
        found = s.compare(first, second)
        if found.p_value is None:
            assert len({one - other for one, other in pairs}) == 1
            return
        expected = stats.ttest_rel(list(first.values()), list(second.values()))
        assert found.p_value == pytest.approx(expected.pvalue, abs=1e-9)
        assert found.interval == pytest.approx(tuple(expected.confidence_interval()), abs=1e-9)

    def test_agrees_with_exchanging_the_two_at_random(self):
        """The exact test that assumes no distribution: all 2^10 exchanges within the pairs."""
        from scipy import stats

        generator = random.Random("exchange")
        for shift in (0.0, 3.0, 6.0):
            first = {k: generator.gauss(50 + shift, 5) for k in range(10)}
            second = {k: generator.gauss(50, 5) for k in range(10)}
            exact = stats.permutation_test(
                (list(first.values()), list(second.values())),
                lambda one, other: (one - other).mean(),
                permutation_type="samples",
                n_resamples=2000,  # more than there are: every one is tried
            ).pvalue
            assert s.compare(first, second).p_value == pytest.approx(exact, abs=0.03)

    @patient
    @given(values, values)
    def test_exchanging_the_two_changes_only_the_sign(self, one, other):
        first, second = dict(enumerate(one)), dict(enumerate(other))
        forth, back = s.compare(first, second), s.compare(second, first)
        assert forth.mean_difference == -back.mean_difference
        assert (forth.n, forth.p_value) == (back.n, back.p_value)


class TestHolm:
    def test_hand_computed(self):
        # sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04, made monotonous
        assert s.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])

    def test_undefined_tests_do_not_count(self):
        assert s.holm([0.03, None, 0.02]) == [pytest.approx(0.04), None, pytest.approx(0.04)]
        assert s.holm([]) == []

    @settings(deadline=None, max_examples=20)  # statsmodels takes a tenth of a second for each
    @given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
    def test_agrees_with_statsmodels(self, p_values):
        from statsmodels.stats.multitest import multipletests

        expected = multipletests(p_values, method="holm")[1]
        assert s.holm(p_values) == pytest.approx(list(expected), abs=1e-12)

    @patient
    @given(st.lists(st.floats(0, 1), min_size=1))
    def test_is_between_no_correction_and_bonferroni(self, p_values):
        for p, adjusted in zip(p_values, s.holm(p_values), strict=True):
            assert p <= adjusted <= min(1.0, len(p_values) * p) + 1e-12


def comparison(difference, p):
    return s.Comparison(3, difference, p, p)


class TestSharedRanks:
    def ranks(self, means, significant, undefined=(), higher_is_better=True):
        """Ranks of a, b, c, ... with these means; pairs not named differ by chance."""
        names = list(means)
        comparisons = {}
        for one in names:
            for other in names:
                p = 0.001 if {one, other} in map(set, significant) else 0.5
                p = None if {one, other} & set(undefined) else p
                comparisons[one, other] = comparison(means[one] - means[other], p)
        ranking = sorted(names, key=means.get, reverse=higher_is_better)
        return s.shared_ranks(ranking, comparisons, higher_is_better)

    def test_all_different(self):
        means = {"a": 3, "b": 2, "c": 1}
        assert self.ranks(means, ["ab", "ac", "bc"]) == {"a": 1, "b": 2, "c": 3}

    def test_none_different(self):
        assert self.ranks({"a": 3, "b": 2, "c": 1}, []) == {"a": 1, "b": 1, "c": 1}

    def test_a_group_is_measured_against_its_best(self):
        # b cannot be told from a, nor c from b; c is worse than a, so it begins a group
        means = {"a": 3, "b": 2, "c": 1, "d": 0}
        assert self.ranks(means, ["ac"]) == {"a": 1, "b": 1, "c": 3, "d": 3}

    def test_lower_is_better(self):
        means = {"a": 1, "b": 2}
        assert self.ranks(means, ["ab"], higher_is_better=False) == {"a": 1, "b": 2}

    def test_a_single_run_on_top_does_not_hide_differences_below(self):
        means = {"lucky": 9, "b": 2, "c": 1}
        found = self.ranks(means, ["bc"], undefined=["lucky"])
        assert found == {"lucky": 1, "b": 1, "c": 3}

    def test_nothing_to_rank(self):
        assert s.shared_ranks([], {}) == {}


class TestCompareAll:
    def test_correction_counts_all_pairs_shown(self):
        runs = {
            "a": {0: 60.0, 1: 64.0, 2: 61.0},
            "b": {0: 50.0, 1: 53.0, 2: 52.0},
            "c": {0: 40.0, 1: 46.0, 2: 41.0},
        }
        found = s.compare_all(runs)
        raw = [s.compare(runs[x], runs[y]).p_value for x, y in (("a", "b"), ("a", "c"), ("b", "c"))]
        shown = [found[pair].adjusted_p_value for pair in (("a", "b"), ("a", "c"), ("b", "c"))]
        assert shown == s.holm(raw)
        assert found["b", "a"].mean_difference == -found["a", "b"].mean_difference
        assert found["b", "a"].adjusted_p_value == found["a", "b"].adjusted_p_value

    def test_clear_differences_are_found_and_noise_is_not(self):
        generator = random.Random("runs")
        seeds = {seed: generator.gauss(0, 20) for seed in range(8)}  # alike for every strategy

        def runs(mean):
            return {k: mean + shared + generator.gauss(0, 1) for k, shared in seeds.items()}

        found = s.compare_all({"good": runs(60), "twin": runs(60), "bad": runs(50)})
        assert found["good", "bad"].significant
        assert found["twin", "bad"].significant
        assert not found["good", "twin"].significant


class TestCompareItems:
    def test_clear_difference(self):
        first = {"a": {str(item): 100.0 for item in range(50)}}
        second = {"a": {str(item): 100.0 * (item % 2) for item in range(50)}}
        found = s.compare_items(first, second)
        assert (found.n, found.mean_difference) == (50, 50)
        assert 30 < found.low < 50 < found.high < 70

    def test_agrees_with_the_normal_interval_for_many_items(self):
        generator = random.Random("many items")
        first, second = ({str(i): generator.gauss(50, 20) for i in range(500)} for _ in range(2))
        differences = [first[item] - second[item] for item in first]
        expected = s.mean_interval(differences)  # the t quantile of 499 is the normal one: 1.96
        found = s.compare_items({"t": first}, {"t": second})
        assert found.mean_difference == pytest.approx(expected.mean)
        for side, end in ((found.low, -1), (found.high, 1)):
            assert side == pytest.approx(expected.mean + end * expected.half_width, abs=0.2)

    def test_no_difference_includes_zero_and_is_repeatable(self):
        generator = random.Random("items")
        first, second = (
            {"a": {str(i): generator.choice([0.0, 100.0]) for i in range(100)}} for _ in range(2)
        )
        found = s.compare_items(first, second)
        assert found.low < 0 < found.high
        assert found == s.compare_items(first, second)

    def test_every_task_counts_alike_whatever_its_number_of_items(self):
        # 100 items that are all 10 better, 4 that are all 30 worse: (10 - 30) / 2.
        first = {"many": dict.fromkeys(map(str, range(100)), 60.0), "few": dict.fromkeys("wxyz", 0)}
        second = {
            "many": dict.fromkeys(map(str, range(100)), 50.0),
            "few": dict.fromkeys("wxyz", 30.0),
        }
        found = s.compare_items(first, second)
        assert found == s.BootstrapDifference(104, -10, -10, -10)

    def test_items_of_one_run_only_do_not_count(self):
        first = {"t": {"a": 1.0, "b": 2.0, "c": None}}
        assert s.compare_items(first, {"t": {"a": 0.0, "b": 0.0, "c": 0.0}}).n == 2
        assert s.compare_items({"t": {"a": 1.0}}, {"t": {"a": 0.0, "b": 1.0}}) is None

    def test_a_task_of_one_run_only_leaves_nothing_to_compare(self):
        items = {"a": 1.0, "b": 2.0}
        assert s.compare_items({"t": items, "u": items}, {"t": items}) is None
        assert s.compare_items({}, {}) is None

"""Continual-learning metrics against hand-computed matrices, invariants and avalanche."""

from __future__ import annotations

import copy
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epi_bench.results.metrics import score_matrix as m
from epi_bench.results.metrics.derived import derive_metrics, retention_metrics
from epi_bench.results.metrics.gradient_conflict import GradientConflict, gradient_conflict
from epi_bench.results.metrics.mask_overlap import jaccard, jaccard_by_chance

R = [
    [10.0, 20.0, 30.0],
    [60.0, 25.0, 20.0],
    [70.0, 50.0, 36.0],
    [40.0, 44.0, 90.0],
]
LEARNED_AT = [1, 2, 3]
S = [80.0, 60.0, 85.0]
RETURNING = [[0.0, 0.0], [80.0, 10.0], [60.0, 80.0], [90.0, 70.0]]

patient = settings(deadline=None)  # a busy machine is no failure
scores = st.floats(min_value=0, max_value=100, allow_nan=False)


@st.composite
def streams(draw, minimum=1):
    count = draw(st.integers(minimum, 6))
    row = st.lists(scores, min_size=count, max_size=count)
    return draw(st.lists(row, min_size=count + 1, max_size=count + 1))


def learned(matrix):
    return list(range(1, len(matrix)))


class TestHandComputed:
    def test_average_accuracy(self):
        assert m.average_accuracy(R) == pytest.approx((40 + 44 + 90) / 3)

    def test_backward_transfer(self):
        assert m.backward_transfer(R, LEARNED_AT) == pytest.approx(((40 - 60) + (44 - 50)) / 2)

    def test_forgetting_takes_the_best_earlier_row(self):
        assert m.forgetting(R, LEARNED_AT) == pytest.approx(((70 - 40) + (50 - 44)) / 2)

    def test_forgetting_is_negative_for_a_task_that_goes_on_improving(self):
        assert m.forgetting([[0, 0], [50, 0], [60, 50]], [1, 2]) == -10

    def test_forgetting_does_not_look_before_the_task_was_learned(self):
        assert m.forgetting([[90, 0], [50, 0], [40, 50]], [1, 2]) == 10

    def test_forgetting_rate(self):
        rate = m.forgetting_rate(R, LEARNED_AT)
        assert rate.value == pytest.approx((100 * 20 / 60 + 100 * 6 / 50) / 2)
        assert rate.left_out == 0

    def test_forgetting_rate_leaves_out_and_counts_what_was_not_learned(self):
        matrix = [[60.0, 20.0, 0.0], *R[1:]]
        assert m.forgetting_rate(matrix, LEARNED_AT) == m.PartialMean(pytest.approx(12), 1)
        nothing = [[100.0, 100.0, 100.0], *R[1:]]
        assert m.forgetting_rate(nothing, LEARNED_AT) == m.PartialMean(None, 2)

    def test_forward_transfer(self):
        assert m.forward_transfer(R, LEARNED_AT) == pytest.approx(((25 - 20) + (36 - 30)) / 2)

    def test_forward_transfer_of_a_task_that_comes_back(self):
        cyclic = [[0.0, 10.0], [50.0, 14.0], [40.0, 60.0], [70.0, 30.0], [60.0, 80.0]]
        assert m.forward_transfer(cyclic, [3, 4], untrained_until=[0, 1]) == 4

    def test_learning_accuracy(self):
        assert m.learning_accuracy(R, LEARNED_AT) == pytest.approx((60 + 50 + 90) / 3)

    def test_intransigence(self):
        assert m.intransigence(R, LEARNED_AT, S) == pytest.approx((20 + 10 - 5) / 3)

    def test_interference(self):
        spread = m.interference([70.0, 65.0, 60.0], S)
        assert spread.per_task == (10, -5, 25)
        assert spread.mean == 10
        assert spread.worst == 25

    def test_average_normalised_score(self):
        expected = ((40 - 10) / 70 + (44 - 20) / 40 + (90 - 30) / 55) / 3
        assert m.average_normalised_score(R, S) == m.PartialMean(pytest.approx(expected), 0)

    def test_average_normalised_score_leaves_out_and_counts_what_cannot_be_learned(self):
        found = m.average_normalised_score(R, [80.0, 20.0, 30.0])
        assert found == m.PartialMean(pytest.approx(30 / 70), 2)

    def test_worst_task_drop(self):
        assert m.worst_task_drop(R, LEARNED_AT) == 40 - 60
        ruined = [[95.0, 20.0, 30.0], *R[1:]]
        assert m.worst_task_drop(ruined, LEARNED_AT) == 40 - 95

    def test_general_retention_is_positive_when_general_ability_is_lost(self):
        assert m.general_retention(2.0, 2.5) == 0.5

    def test_gradient_conflict_counts_each_pair_once(self):
        first = [[1, -0.5, 0.25], [-0.5, 1, None], [0.25, None, 1]]
        second = [[1, 0.0, -1.0], [0.0, 1, 0.5], [-1.0, 0.5, 1]]
        conflict = gradient_conflict([first, second])
        assert conflict.pairs == 5
        assert conflict.negative_share == pytest.approx(2 / 5)
        assert conflict.mean_cosine == pytest.approx((-0.5 + 0.25 + 0 - 1 + 0.5) / 5)

    def test_jaccard(self):
        assert jaccard([1, 2, 3], {2, 3, 4, 5}) == pytest.approx(2 / 5)
        assert jaccard(np.array([7, 8]), np.array([8, 7])) == 1
        assert jaccard([], []) is None

    def test_order_sensitivity(self):
        found = m.order_sensitivity([{"a": 10, "b": 50}, {"a": 30, "b": 45}, {"a": 20, "b": 48}])
        assert found == {"a": 20, "b": 5}


class TestJaccardByChance:
    def test_formula(self):
        assert jaccard_by_chance(0.5) == pytest.approx(1 / 3)
        assert jaccard_by_chance(1.0) == 1
        assert jaccard_by_chance(0.0) is None

    def test_is_what_independent_random_sets_show(self):
        generator = np.random.default_rng(0)
        found = [
            jaccard(
                generator.choice(5000, 1500, replace=False),
                generator.choice(5000, 1500, replace=False),
            )
            for _ in range(20)
        ]
        assert statistics.mean(found) == pytest.approx(jaccard_by_chance(0.3), abs=0.01)

    def test_refuses_what_is_no_share(self):
        with pytest.raises(ValueError, match="share"):
            jaccard_by_chance(30)


class TestUndefined:
    def test_one_task_has_no_transfer_between_tasks(self):
        matrix, row = [[10.0], [60.0]], [1]
        assert m.backward_transfer(matrix, row) is None
        assert m.forgetting(matrix, row) is None
        assert m.forgetting_rate(matrix, row) == m.PartialMean(None, 0)
        assert m.forward_transfer(matrix, row) is None
        assert m.learning_accuracy(matrix, row) == 60
        assert m.worst_task_drop(matrix, row) == 0

    def test_a_cell_that_was_not_measured_undoes_only_what_needs_it(self):
        matrix = copy.deepcopy(R)
        matrix[1][1] = None
        found = derive_metrics(matrix, LEARNED_AT, S)
        whole = derive_metrics(R, LEARNED_AT, S)
        assert found.pop("forward_transfer") is None
        assert whole.pop("forward_transfer") is not None
        assert found == whole

    @pytest.mark.parametrize(("row", "column"), [(3, 0), (1, 0), (0, 1)])
    def test_missing_means_none_whether_none_or_nan(self, row, column):
        with_none, with_nan = copy.deepcopy(R), np.array(R)
        with_none[row][column] = None
        with_nan[row, column] = math.nan
        found = derive_metrics(with_none, LEARNED_AT, S)
        assert None in found.values()
        assert found == derive_metrics(with_nan, LEARNED_AT, S)

    def test_without_references(self):
        found = derive_metrics(R, LEARNED_AT)
        assert found["intransigence"] is None
        assert found["average_normalised_score"] is None
        assert found["interference"] is None

    def test_no_pairs_no_conflict(self):
        assert gradient_conflict([]) == GradientConflict(None, None, 0)
        assert gradient_conflict([[[1.0, None], [None, 1.0]]]).negative_share is None

    def test_order_sensitivity_needs_two_orders_and_all_scores(self):
        assert m.order_sensitivity([{"a": 1.0}]) == {"a": None}
        assert m.order_sensitivity([{"a": 1.0}, {"a": None}]) == {"a": None}
        assert m.order_sensitivity([]) == {}


class TestStreams:
    def test_mixed_stream_has_interference_and_nothing_that_needs_a_moment_of_learning(self):
        found = derive_metrics(R, [None, None, None], S)
        assert found["interference"] == pytest.approx((40 + 16 - 5) / 3)
        assert found["interference_worst"] == 40
        assert found["average_accuracy"] == m.average_accuracy(R)
        assert found["average_normalised_score"] == m.average_normalised_score(R, S).value
        undefined = {name for name, value in found.items() if value is None}
        assert undefined == {
            "backward_transfer",
            "forgetting",
            "forgetting_rate",
            "forward_transfer",
            "learning_accuracy",
            "intransigence",
            "worst_task_drop",
            "general_retention",
            "gradient_conflict",
            "gradient_cosine",
        }

    def test_sequential_stream_has_no_interference(self):
        found = derive_metrics(R, LEARNED_AT, S)
        assert found["interference"] is None
        assert found["interference_worst"] is None

    def test_staged_stream_counts_the_groups_that_were_followed(self):
        matrix = [[0.0, 0.0, 0.0], [50.0, 40.0, 6.0], [30.0, 45.0, 80.0]]
        groups = [1, 1, 2]
        assert m.backward_transfer(matrix, groups) == pytest.approx((-20 + 5) / 2)
        assert m.forward_transfer(matrix, groups) == 6

    def test_a_task_that_is_only_tested_is_left_out_of_what_was_learned(self):
        tested = [[*row, 33.0] for row in R]
        rows = [*LEARNED_AT, None]
        assert m.backward_transfer(tested, rows) == m.backward_transfer(R, LEARNED_AT)
        assert m.learning_accuracy(tested, rows) == m.learning_accuracy(R, LEARNED_AT)


class TestStreamsThatComeBack:
    """Base, then A, B, A: worked out by hand."""

    def test_every_metric(self):
        found = derive_metrics(
            RETURNING, [3, 2], [100.0, 100.0], first_learned_at=[1, 2], untrained_until=[0, 1]
        )
        assert found["average_accuracy"] == (90 + 70) / 2
        assert found["forward_transfer"] == 10 - 0  # B before its first training; A had none before
        assert found["backward_transfer"] == 70 - 80  # nothing followed A's last training
        assert found["forgetting"] == 80 - 70
        assert found["forgetting_rate"] == 100 * (80 - 70) / 80
        assert found["learning_accuracy"] == (90 + 80) / 2
        assert found["intransigence"] == ((100 - 90) + (100 - 80)) / 2
        assert found["average_normalised_score"] == (0.9 + 0.7) / 2
        assert found["worst_task_drop"] == 70 - 80
        assert found["interference"] is None

    def test_forward_transfer_is_undefined_where_the_first_training_is_unknown(self):
        # A, B, A and B, B, A have these moments of last training, and different transfer
        assert m.forward_transfer(RETURNING, [3, 2]) is None
        assert m.forward_transfer(RETURNING, [3, 2], [0, 1]) == 10
        assert m.forward_transfer(RETURNING, [3, 2], [2, 0]) == 60

    def test_forward_transfer_does_not_look_into_an_experience_scored_midway(self):
        # rows 1 and 2 are of A, rows 3 and 4 of B; only row 2 is before B's training
        midway = [[0.0, 0.0], [30.0, 5.0], [60.0, 8.0], [50.0, 40.0], [40.0, 90.0]]
        assert m.forward_transfer(midway, [2, 4], [0, 2]) == 8
        assert m.forward_transfer(midway, [2, 4]) is None

    def test_forgetting_counts_from_the_best_since_the_task_was_first_learned(self):
        # A, B, A, B: A had 90 after its first training, 70 after its second, 50 in the end
        twice = [[0.0, 0.0], [90.0, 0.0], [40.0, 60.0], [70.0, 30.0], [50.0, 80.0]]
        assert m.forgetting(twice, [3, 4], [1, 2]) == 90 - 50
        assert m.forgetting(twice, [3, 4]) == 70 - 50
        assert m.backward_transfer(twice, [3, 4]) == 50 - 70

    def test_interference_needs_every_task_to_be_trained(self):
        joint = [[0.0, 0.0], [50.0, 60.0]]
        known = {"references": [80.0, 80.0], "first_learned_at": [None, None]}
        both = derive_metrics(joint, [None, None], **known, untrained_until=[0, 0])
        assert both["interference"] == (30 + 20) / 2
        one = derive_metrics(joint, [None, None], **known, untrained_until=[0, None])
        assert one["interference"] is None

    @patient
    @given(streams(minimum=2), st.data())
    def test_without_a_return_the_moments_say_nothing_new(self, matrix, data):
        rows = learned(matrix)
        found = derive_metrics(
            matrix,
            rows,
            matrix[-1],
            first_learned_at=rows,
            untrained_until=[row - 1 for row in rows],
        )
        assert found == derive_metrics(matrix, rows, matrix[-1])


class TestTrainingMoments:
    """When a stream trains a task, as the record keeps it."""

    @staticmethod
    def moments(*plans, task="a"):
        from epi_bench.runs.recording import training_moments

        found = training_moments(plans, task)
        return tuple(found[k] for k in ("untrained_until", "first_learned_at", "learned_at"))

    @staticmethod
    def plan(*tasks, **how):
        from epi_bench.spec.streams import ExperiencePlan

        return ExperiencePlan("+".join(tasks), tasks, **how)

    def test_a_sequence(self):
        a, b = self.plan("a"), self.plan("b")
        assert self.moments(a, b) == (0, 1, 1)
        assert self.moments(a, b, task="b") == (1, 2, 2)

    def test_a_task_that_comes_back(self):
        a, b = self.plan("a"), self.plan("b")
        assert self.moments(a, b, a) == (0, 1, 3)
        assert self.moments(b, a, b, a) == (1, 2, 4)

    def test_experiences_scored_midway(self):
        a, b = self.plan("a", evaluations=2), self.plan("b", evaluations=3)
        assert self.moments(b, a, b, a) == (3, 5, 10)

    def test_all_at_once_has_no_moment_of_learning(self):
        assert self.moments(self.plan("a", "b", evaluations=2)) == (0, None, None)
        assert self.moments(self.plan("a")) == (0, 1, 1)

    def test_a_task_that_is_only_tested(self):
        assert self.moments(self.plan("b"), self.plan("c")) == (None, None, None)
        assert self.moments(self.plan("b"), task="b") == (0, 1, 1)

    def test_budgets_add_up(self):
        from epi_bench.runs.recording import training_moments

        plans = [self.plan("a", budget=0.5), self.plan("a", "b", budget=3)]
        assert training_moments(plans, "a")["budget"] == 0.5 + 1.5
        assert training_moments(plans, "b")["budget"] == 1.5


class TestTasksThatWereNeverTrained:
    def test_the_change_from_the_base_model(self):
        scores = [[50.0, 80.0, 10.0], [90.0, 0.0, 0.0], [47.0, 80.0, 22.0]]
        found = retention_metrics(scores)
        assert found == {"task_retention": 3.0, "worst_task_retention": -3.0}
        assert m.task_retention(scores).per_task == (-3.0, 0.0, 12.0)

    def test_a_score_that_is_missing_makes_both_undefined(self):
        found = retention_metrics([[50.0, None], [40.0, 60.0]])
        assert found == {"task_retention": None, "worst_task_retention": None}
        assert m.task_retention([[50.0, None], [40.0, 60.0]]).per_task == (-10.0, None)


class TestInvariants:
    @patient
    @given(st.lists(scores, min_size=2, max_size=6))
    def test_an_untrained_model_neither_learns_nor_forgets(self, base):
        matrix = [list(base) for _ in range(len(base) + 1)]
        found = derive_metrics(matrix, learned(matrix), base)
        for name in ("backward_transfer", "forgetting", "forward_transfer", "worst_task_drop"):
            assert found[name] == 0
        assert found["forgetting_rate"] is None
        assert found["forgetting_rate_left_out"] == len(base) - 1
        assert found["intransigence"] == 0

    @patient
    @given(streams(minimum=2))
    def test_forgetting_is_at_least_the_loss_since_learning(self, matrix):
        loss = -m.backward_transfer(matrix, learned(matrix))
        assert m.forgetting(matrix, learned(matrix)) >= loss - 1e-9

    @patient
    @given(streams())
    def test_accuracy_is_learning_plus_what_later_training_did(self, matrix):
        count = len(matrix) - 1
        later = m.backward_transfer(matrix, learned(matrix)) or 0
        total = m.learning_accuracy(matrix, learned(matrix)) + (count - 1) / count * later
        assert m.average_accuracy(matrix) == pytest.approx(total, abs=1e-9)

    @patient
    @given(streams(minimum=2), st.randoms(use_true_random=False))
    def test_the_order_of_columns_does_not_count(self, matrix, random):
        order = list(range(len(matrix[0])))
        random.shuffle(order)
        shuffled = [[row[task] for task in order] for row in matrix]
        rows = [task + 1 for task in order]
        references = [50.0 + task for task in range(len(order))]
        found = derive_metrics(shuffled, rows, [references[task] for task in order])
        assert found == pytest.approx(derive_metrics(matrix, learned(matrix), references))

    @patient
    @given(streams())
    def test_nothing_is_changed_and_nothing_is_nan(self, matrix):
        before = copy.deepcopy(matrix)
        found = derive_metrics(matrix, learned(matrix), matrix[-1])
        assert matrix == before
        assert all(value is None or math.isfinite(value) for value in found.values())

    @patient
    @given(streams())
    def test_a_model_as_good_as_the_references_has_score_one(self, matrix):
        normalised = m.average_normalised_score(matrix, matrix[-1])
        assert normalised.value is None or normalised.value == pytest.approx(1)


class TestShapes:
    @pytest.mark.parametrize(
        ("matrix", "rows"),
        [([], []), ([[]], []), ([[1.0, 2.0], [1.0]], [1, 1]), (R, [1, 2]), (R, [1, 2, 4])],
    )
    def test_shapes_that_do_not_fit_are_refused(self, matrix, rows):
        with pytest.raises(ValueError):
            derive_metrics(matrix, rows)

    def test_references_must_fit(self):
        with pytest.raises(ValueError, match="references"):
            derive_metrics(R, LEARNED_AT, [1.0])


@pytest.fixture(scope="module")
def avalanche():
    from avalanche.evaluation.metrics import forgetting_bwt

    return forgetting_bwt


class TestAvalanche:
    """avalanche computes both from the first and the last score of each task."""

    @staticmethod
    def feed(metric, matrix):
        for task in range(len(matrix[0]) - 1):
            metric.update(task, matrix[task + 1][task], initial=True)
            metric.update(task, matrix[-1][task])
        return statistics.mean(metric.result().values())

    @patient
    @given(streams(minimum=2))
    def test_backward_transfer_agrees(self, avalanche, matrix):
        ours = m.backward_transfer(matrix, learned(matrix))
        assert ours == pytest.approx(self.feed(avalanche.BWT(), matrix), abs=1e-9)

    def test_forgetting_agrees_where_a_task_is_best_right_after_it_was_learned(self, avalanche):
        falling = [[0.0, 0.0, 0.0], [60.0, 0.0, 0.0], [55.0, 50.0, 0.0], [40.0, 44.0, 90.0]]
        assert m.forgetting(falling, LEARNED_AT) == self.feed(avalanche.Forgetting(), falling) == 13

    def test_forgetting_differs_where_a_task_improved_later(self, avalanche):
        # Task 0 reaches 60 when learned and 70 one experience later; Chaudhry et al. count from 70.
        assert self.feed(avalanche.Forgetting(), R) == ((60 - 40) + (50 - 44)) / 2
        assert m.forgetting(R, LEARNED_AT) == ((70 - 40) + (50 - 44)) / 2

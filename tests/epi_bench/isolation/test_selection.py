"""The global threshold: exactly the asked number, against a plain sort."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epi_bench.isolation.normalisation import mean, min_max
from epi_bench.isolation.selection import select_top, share_by_rank, sort_keys

values = st.floats(0, 1e6, width=32) | st.sampled_from([0.0, 1.0, 1e-45, 3.0])
tensors = st.lists(st.lists(values, min_size=1, max_size=12), min_size=1, max_size=5)


def _select(scores: list[list[float]], count: int, largest: bool = True) -> tuple[list, list]:
    by_name = {str(i): torch.tensor(row, dtype=torch.float32) for i, row in enumerate(scores)}
    masks = select_top(list(by_name), lambda name: sort_keys(by_name[name], largest), count)
    flat = torch.cat(list(by_name.values())).tolist()
    return flat, torch.cat([masks[name] for name in by_name]).tolist()


@given(tensors, st.data())
def test_takes_exactly_the_largest_and_never_a_zero(scores, data):
    size = sum(map(len, scores))
    count = data.draw(st.integers(0, size))
    flat, mask = _select(scores, count)
    taken = sorted(value for value, protected in zip(flat, mask, strict=True) if protected)
    expected = sorted((value for value in flat if value > 0), reverse=True)[:count]
    assert taken == sorted(expected)


@given(tensors, st.data())
def test_smallest_first_takes_zeros_before_anything_else(scores, data):
    count = data.draw(st.integers(0, sum(map(len, scores))))
    flat, mask = _select(scores, count, largest=False)
    taken = sorted(value for value, protected in zip(flat, mask, strict=True) if protected)
    assert taken == sorted(flat)[:count]


def test_ties_at_the_threshold_are_filled_in_order():
    _, mask = _select([[2.0, 1.0, 1.0], [1.0, 3.0]], 3)
    assert mask == [True, True, False, False, True]


def test_negative_zero_counts_as_zero():
    keys = sort_keys(torch.tensor([-0.0, 0.0, 1.0]))
    assert keys.tolist()[:2] == [0, 0]


def test_counts_beyond_two_to_the_24_stay_exact():
    size = (1 << 24) + 1000  # float histograms stop counting here
    ones = torch.ones(size)
    mask = select_top(["all"], lambda name: sort_keys(ones), size - 7)["all"]
    assert int(mask.sum()) == size - 7


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=6),
    st.data(),
)
def test_rank_shares_sum_to_what_was_asked_and_never_exceed_positive_scores(layers, data):
    sizes = {str(i): size for i, (size, _) in enumerate(layers)}
    positive = {str(i): min(size, some) for i, (size, some) in enumerate(layers)}
    count = data.draw(st.integers(0, sum(sizes.values())))
    taken = share_by_rank(sizes, positive, count)
    assert sum(taken.values()) == min(count, sum(positive.values()))
    assert all(0 <= taken[name] <= positive[name] for name in sizes)


def test_rank_shares_are_equal_for_tensors_without_zeros():
    taken = share_by_rank({"a": 100, "b": 300}, {"a": 100, "b": 300}, 200)
    assert taken == {"a": 50, "b": 150}


def test_a_tensor_of_zeros_gives_its_share_to_the_others():
    taken = share_by_rank({"dead": 100, "live": 100}, {"dead": 0, "live": 100}, 60)
    assert taken == {"dead": 0, "live": 60}


def test_normalisations_by_hand():
    scores = torch.tensor([1.0, 3.0, 5.0])
    assert min_max(scores).tolist() == [0.0, 0.5, 1.0]
    assert mean(scores).tolist() == pytest.approx([1 / 3, 1.0, 5 / 3])


@pytest.mark.parametrize("normalise", [min_max, mean])
def test_a_tensor_without_information_becomes_zero(normalise):
    assert normalise(torch.zeros(4)).tolist() == [0.0] * 4
    assert min_max(torch.full((4,), 2.0)).tolist() == [0.0] * 4

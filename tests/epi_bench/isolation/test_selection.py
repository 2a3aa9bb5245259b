"""The global threshold: exactly the asked number, against a plain stable sort."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epi_bench.isolation import selection
from epi_bench.isolation.keys import (
    BEYOND_INFINITY,
    LEAST_KEY,
    count_and_extract,
    sort_keys,
)
from epi_bench.isolation.normalisation import Scaling, measure_scaling
from epi_bench.isolation.rank_shares import share_by_rank
from epi_bench.isolation.selection import select
from epi_bench.isolation.sharding import Processes

values = st.floats(0, 1e6, width=32) | st.sampled_from([0.0, 1.0, 1e-45, 3.0])
tensors = st.lists(st.lists(values, min_size=1, max_size=12), min_size=1, max_size=5)
affine = st.sampled_from(["min_max", "mean"])


def _min_max(scores):
    spread = scores.max() - scores.min()
    return (scores - scores.min()) / spread if spread > 0 else torch.zeros_like(scores)


def _mean(scores):
    average = scores.double().mean()
    return (scores / average).float() if average.float() > 0 else torch.zeros_like(scores)


def _take(scores, count, largest):
    """The definition: sort, ties in their order, and never a zero of the largest."""
    order = torch.sort(scores, descending=largest, stable=True).indices[:count]
    mask = torch.zeros(len(scores), dtype=torch.bool)
    mask[order] = True
    return mask & (scores > 0) if largest else mask


def _reference(rows, count, normalisation, largest=True):
    if normalisation == "rank":
        sizes = {str(i): row.numel() for i, row in enumerate(rows)}
        positive = {str(i): int((row > 0).sum()) for i, row in enumerate(rows)}
        counts = share_by_rank(sizes, positive if largest else sizes, count)
        taken = [_take(row, counts[str(i)], largest) for i, row in enumerate(rows)]
        return torch.cat(taken)
    normalise = {"min_max": _min_max, "mean": _mean}[normalisation]
    return _take(torch.cat([normalise(row) for row in rows]), count, largest)


def _select(rows, count, normalisation, largest=True):
    by_name = {str(i): row for i, row in enumerate(rows)}
    masks = select(list(by_name), by_name.__getitem__, count, normalisation, largest)
    return torch.cat([masks[name] for name in by_name])


def _rows(lists):
    return [torch.tensor(row, dtype=torch.float32) for row in lists]


@given(tensors, st.data(), affine | st.just("rank"), st.booleans())
def test_equals_the_definition_by_sorting(lists, data, normalisation, largest):
    rows = _rows(lists)
    count = data.draw(st.integers(0, sum(map(len, lists))))
    found = _select(rows, count, normalisation, largest)
    assert torch.equal(found, _reference(rows, count, normalisation, largest))


@pytest.mark.parametrize("normalisation", ["min_max", "mean", "rank"])
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("ratio", [0.0005, 0.05, 0.5, 0.97])
def test_equals_the_definition_on_scores_like_those_of_a_model(normalisation, largest, ratio):
    generator = torch.Generator().manual_seed(0)
    rows = []
    for size, power in ((300_000, 2), (70_001, 6), (576, 2), (1, 1), (100_000, 1)):
        drawn = torch.randn(size, generator=generator).abs() ** power
        rows.append(drawn * 10.0 ** (-power))
    rows[0][::3] = 0.0  # tokens that never came
    rows[4].mul_(16).round_()  # many ties
    rows.append(torch.zeros(50_000))  # a frozen expert
    rows.append(torch.full((20_000,), 0.25))
    count = round(ratio * sum(row.numel() for row in rows))
    found = _select(rows, count, normalisation, largest)
    assert torch.equal(found, _reference(rows, count, normalisation, largest))


@pytest.mark.parametrize("normalisation", ["min_max", "mean", "rank"])
def test_a_sample_that_misleads_changes_nothing(normalisation, monkeypatch):
    """Every sampled score is zero, all others are not."""
    monkeypatch.setattr(selection, "SAMPLE", 1000)
    rows = [torch.rand(40_000, generator=torch.Generator().manual_seed(1)) + 0.1, torch.rand(2000)]
    for row in rows:
        row[:: (42_000 // 1000) | 1] = 0.0
    for count in (1, 500, 21_000, 40_000):
        found = _select(rows, count, normalisation)
        assert torch.equal(found, _reference(rows, count, normalisation))


@pytest.mark.parametrize("threads", [1, 2])
def test_does_not_depend_on_the_number_of_threads(threads):
    before = torch.get_num_threads()
    rows = [torch.rand(5000, generator=torch.Generator().manual_seed(i)) for i in range(9)]
    try:
        torch.set_num_threads(threads)
        for normalisation in ("mean", "rank"):
            found = _select(rows, 20_000, normalisation)
            assert torch.equal(found, _reference(rows, 20_000, normalisation))
    finally:
        torch.set_num_threads(before)


def test_ties_at_the_threshold_are_filled_in_order():
    rows = _rows([[2.0, 1.0, 1.0, 0.0], [1.0, 2.0, 1.0, 0.0]])
    assert _select(rows, 4, "mean").tolist() == [True, True, True, False, False, True, False, False]


def test_all_scores_equal_are_filled_in_order():
    mask = _select([torch.ones(300_000), torch.ones(300_000)], 400_000, "mean")
    assert mask[:400_000].all()
    assert not mask[400_000:].any()


def test_negative_zero_counts_as_zero():
    scores = torch.tensor([1.0, -0.0, 0.0, 2.0])
    assert _select([scores], 4, "mean").tolist() == [True, False, False, True]
    assert _select([scores], 1, "mean", largest=False).tolist() == [False, True, False, False]


def test_counts_beyond_two_to_the_24_stay_exact():
    size = (1 << 24) + 1000  # float histograms stop counting here
    mask = _select([torch.ones(size)], size - 7, "mean")
    assert int(mask.sum()) == size - 7


@given(tensors, st.integers(1, BEYOND_INFINITY), affine)
def test_a_cut_of_normalised_scores_is_a_cut_of_each_tensors_own_scores(lists, key, normalisation):
    rows = _rows(lists)
    names = [str(i) for i in range(len(rows))]
    scaling = measure_scaling(normalisation, names, lambda name: rows[int(name)], Processes())
    for i, cut in enumerate(scaling.cuts(key)):
        normalised = sort_keys(scaling.normalise(i, rows[i]))
        assert torch.equal(sort_keys(rows[i]) >= int(cut), normalised >= key)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20), st.data())
def test_keys_are_counted_and_extracted_at_both_ends(keys, data):
    ends = st.sampled_from([LEAST_KEY, 0, BEYOND_INFINITY, *keys]).filter(
        lambda key: key <= BEYOND_INFINITY
    )
    low, high = sorted((data.draw(ends), data.draw(ends)))
    keys = [min(key, BEYOND_INFINITY - 1) for key in keys]
    above, inside = count_and_extract(torch.tensor(keys, dtype=torch.int32), low, high)
    assert above == sum(key >= high for key in keys)
    assert inside.tolist() == [key for key in keys if low <= key < high]


def _normalised(normalisation, scores):
    scaling = measure_scaling(normalisation, ["w"], lambda name: scores, Processes())
    return scaling.normalise(0, scores).tolist()


def test_normalisations_by_hand():
    scores = torch.tensor([1.0, 3.0, 5.0])
    assert _normalised("min_max", scores) == [0.0, 0.5, 1.0]
    assert _normalised("mean", scores) == pytest.approx([1 / 3, 1.0, 5 / 3])
    assert Scaling.none(1).normalise(0, scores).tolist() == [1.0, 3.0, 5.0]


@pytest.mark.parametrize("normalisation", ["min_max", "mean"])
def test_a_tensor_without_information_becomes_zero(normalisation):
    assert _normalised(normalisation, torch.zeros(4)) == [0.0] * 4
    assert _normalised("min_max", torch.full((4,), 2.0)) == [0.0] * 4

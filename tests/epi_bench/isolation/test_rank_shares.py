"""How many elements each tensor gives when scores are ranked within their own tensor."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from epi_bench.isolation.rank_shares import share_by_rank


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

"""A quadratic pull that keeps nothing for the backward pass."""

from __future__ import annotations

import pytest
import torch

from epi_bench.strategy.quadratic_pull import full_importance, weighted_square


def _tensors(dtype):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 7, generator=generator).to(dtype).requires_grad_()
    anchor = torch.randn(5, 7, generator=generator).to(dtype)
    return weight, anchor, torch.rand(5, 7, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient_are_autograds_to_the_last_bit(dtype):
    weight, anchor, importance = _tensors(dtype)
    plain = (importance * (weight - anchor).square()).sum()
    found = weighted_square(weight, anchor, importance)
    assert torch.equal(found, plain)
    ways = [torch.autograd.grad(3.7 * value, weight)[0] for value in (found, plain)]
    assert torch.equal(*ways)


def test_nothing_but_what_is_there_anyway_is_kept():
    weight, anchor, importance = _tensors(torch.float32)
    there = {t.data_ptr() for t in (weight, anchor, importance)}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, id):
        weighted_square(weight, anchor, importance)
    assert set(kept) <= there


def test_without_an_anchor_it_is_drawn_to_zero():
    weight = torch.tensor([2.0, -3.0], requires_grad=True)
    found = weighted_square(weight, None, torch.tensor([1.0, 0.5]))
    assert found.item() == 4 + 4.5
    assert torch.autograd.grad(found, weight)[0].tolist() == [4.0, -3.0]


def test_rows_and_columns_stand_for_their_product():
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    rows, columns = torch.tensor([1.0, 3.0]), torch.tensor([3.0, 1.0])
    found = weighted_square(weight, None, rows, columns)  # 1.5, 0.5; 4.5, 1.5
    assert found.item() == pytest.approx(1.5 + 0.5 * 4 + 4.5 * 9 + 1.5 * 16)
    (gradient,) = torch.autograd.grad(found, weight)
    assert gradient.tolist() == [[3.0, 2.0], [27.0, 12.0]]


def test_no_importance_at_all_is_none_and_not_nan():
    assert not full_importance(torch.Size([2, 2]), torch.zeros(2), torch.zeros(2)).any()

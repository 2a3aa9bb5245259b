"""Where in a model graded protection is."""

from __future__ import annotations

import pytest
import torch

from epi_bench.strategy.stiffness_shares import stiffness_shares


def test_shares_are_of_the_sum_over_all_weights():
    found = stiffness_shares(
        {
            "model.embed_tokens.weight": torch.tensor([1.0, 0.0, 0.0, 0.0]),
            "model.layers.0.self_attn.q_proj.weight": torch.tensor([[2.0], [3.0]]),
            "model.layers.10.mlp.up_proj.weight": torch.tensor([4.0, 4.0]),
            "model.layers.2.mlp.up_proj.weight": torch.tensor([6.0, 0.0]),
        }
    )
    assert list(found) == ["attention", "embedding", "mlp", "layer_0", "layer_2", "layer_10"]
    assert found["embedding"] == (0.4, 0.05)  # 4 of 10 weights, 1 of 20
    assert found["attention"] == found["layer_0"] == (0.2, 0.25)
    assert found["mlp"] == (0.4, pytest.approx(0.7))
    assert found["layer_10"].stiffness == 0.4
    assert found["layer_2"].stiffness == pytest.approx(0.3)


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan")])
def test_where_nothing_can_be_shared_there_are_no_shares(value):
    assert stiffness_shares({"model.layers.0.mlp.w": torch.tensor([value, 0.0])}) == {}
    assert stiffness_shares({}) == {}


def test_no_share_is_more_than_one():
    """Numbers whose sum depends on the order."""
    named = {f"layers.0.mlp.{i}": torch.tensor(0.1 * 3**i) for i in range(20)}
    shares = stiffness_shares({k: v.double() for k, v in named.items()})
    assert shares["layer_0"] == shares["mlp"] == (1.0, 1.0)

"""Parts of a saved state."""

import torch

from epi_bench import state_part


def test_a_part_is_what_begins_with_the_prefix_without_it():
    tensors = {name: torch.zeros(n) for n, name in enumerate(("a.w", "a.a.w", "ab.w", "w"))}
    found = state_part(tensors, "a.")
    assert list(found) == ["w", "a.w"]
    assert found["w"] is tensors["a.w"] and found["a.w"] is tensors["a.a.w"]
    assert state_part(tensors, "missing.") == {}

"""Tiny random models, and a witness that protected weights have not moved."""

from __future__ import annotations

import pytest
import torch


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The stored bits in the order of memory."""
    integer = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
    return tensor.detach().clone().view(integer).view(-1)


class Witness:
    """Compares, step by step, what was protected before the step with what is there after it."""

    def __init__(self, isolation):
        self.isolation, self.checked, self.steps = isolation, 0, 0
        self.remember()

    def remember(self):
        self.masks = self.isolation.masks
        self.before = {name: bits(p) for name, p in self.isolation.parameters.items()}

    def check(self):
        """Call after a step; fails where a weight protected during it has changed."""
        moved = free = 0
        for name, parameter in self.isolation.parameters.items():
            changed, mask = bits(parameter) != self.before[name], self.masks[name]
            assert not bool(changed[mask].any()), f"protected weights of {name} moved"
            self.checked += int(mask.sum())
            moved += int(changed[~mask].sum())
            free += int((~mask).sum())
        assert moved > 0.2 * free, "training did not move what is free"
        self.steps += 1
        self.remember()


@pytest.fixture
def witness():
    """Makes a :class:`Witness` of an engine."""
    return Witness


@pytest.fixture
def tiny_llama():
    """Makes Llamas of 5,000 random parameters, all the same."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(vocabulary=64):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=vocabulary,
                    hidden_size=16,
                    intermediate_size=32,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    max_position_embeddings=64,
                    tie_word_embeddings=True,
                )
            )

    return make

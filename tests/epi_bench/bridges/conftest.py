"""A tiny random language model."""

from __future__ import annotations

import pytest
import torch


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


@pytest.fixture(autouse=True)
def no_accelerator_of_another_test():
    """``accelerate`` keeps its state for the whole process: what a Trainer left in it goes."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()

"""The toy model and an encoder for it."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from epi_bench.model.chat.chat_encoder import ChatEncoder


@pytest.fixture(scope="module")
def model(toy_model):
    return AutoModelForCausalLM.from_pretrained(toy_model).eval()


@pytest.fixture(scope="module")
def encoder(toy_model):
    return ChatEncoder(AutoTokenizer.from_pretrained(toy_model), 64)

"""The likelihood of a running text, beside transformers."""

from __future__ import annotations

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from epi_bench.evaluation import running_text
from epi_bench.evaluation.running_text import text_negative_log_likelihood


def test_running_text_begins_with_the_tokenizers_own_token_in_every_window(model, toy_model):
    tokenizer = AutoTokenizer.from_pretrained(toy_model)
    start = "<|im_start|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, tokenizer.convert_tokens_to_ids(start))]
    )
    text = "copy the word red green blue " * 3
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    sums, window = [], 9
    for first in range(0, len(ids), window - 1):
        part = torch.tensor([[tokenizer.convert_tokens_to_ids(start), *ids[first : first + 8]]])
        with torch.no_grad():
            sums.append(model(input_ids=part, labels=part).loss.item() * (part.shape[1] - 1))
    found, tokens = text_negative_log_likelihood(model, tokenizer, text, window, 4)
    assert tokens == len(ids)
    assert found == pytest.approx(sum(sums) / len(ids), rel=1e-5)


def test_running_text_that_shows_control_tokens_is_text(model, toy_model, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(toy_model)
    seen, batches = [], running_text.batches_by_length
    monkeypatch.setattr(
        running_text,
        "batches_by_length",
        lambda windows, *rest: (seen.extend(windows), batches(windows, *rest))[1],
    )
    text_negative_log_likelihood(model, tokenizer, "red <|im_end|> blue", 100, 4)
    ids = [token for window in seen for token in window.input_ids]
    assert tokenizer.decode(ids) == "red <|im_end|> blue"
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in ids


def test_text_loss_equals_that_of_transformers_on_one_window(model, encoder):
    text = "copy the word red green blue " * 3
    ids = encoder.tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        expected = model(input_ids=ids, labels=ids).loss.item()
    found, tokens = text_negative_log_likelihood(model, encoder.tokenizer, text, 1000, 4)
    assert found == pytest.approx(expected, rel=1e-5)
    assert tokens == ids.shape[1] - 1

"""Log-likelihoods of options, against one plain forward pass a sequence."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from epi_bench.evaluation import options
from epi_bench.evaluation.options import option_log_likelihoods
from epi_bench.model.chat.chat_encoder import ChatEncoder
from epi_bench.model.chat.encoded_example import EncodedExample

OPTIONS = ("red", "green blue one two", "three copy the", "word red green blue one two three")


@pytest.fixture(scope="module", params=["whole", "cut"])
def questions(request, toy_model):
    """Seven questions of different lengths; cut ones keep less of the prompt for long options."""
    encoder = ChatEncoder(AutoTokenizer.from_pretrained(toy_model), 200)
    if request.param == "cut":
        encoder = ChatEncoder(encoder.tokenizer, 30)
    return [
        encoder.options([{"role": "user", "content": "copy the word " * (1 + i)}], OPTIONS[i % 3 :])
        for i in range(7)
    ]


def _plain(model, example: EncodedExample) -> float:
    with torch.no_grad():
        scores = model(torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
    return sum(
        scores[i - 1, token].item()
        for i, (token, counts) in enumerate(zip(example.input_ids, example.supervised, strict=True))
        if counts
    )


@torch.no_grad()
def _score(model, questions, batch_size):
    return option_log_likelihoods(model, questions, 0, batch_size)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_options_on_a_shared_prompt_score_as_whole_sequences(model, questions, batch_size):
    expected = [tuple(_plain(model, option) for option in options) for options in questions]
    for found, wanted in zip(_score(model, questions, batch_size), expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-4)


def test_a_model_without_a_cache_scores_the_same(model, questions, monkeypatch):
    shared = _score(model, questions, 4)
    monkeypatch.setattr(options, "empty_cache", lambda _: None)
    for found, wanted in zip(_score(model, questions, 4), shared, strict=True):
        assert found == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("questions", ["whole"], indirect=True)
def test_each_prompt_is_read_once(model, questions):
    read = []

    def note(_module, _arguments, keywords):
        read.append(keywords["input_ids"].numel())

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        _score(model, questions, 1)
    finally:
        hook.remove()
    prompts = sum(len(options[0]) - options[0].supervised_tokens for options in questions)
    later = sum(option.supervised_tokens - 1 for options in questions for option in options)
    assert sum(read) == prompts + later


@pytest.mark.parametrize("questions", ["whole"], indirect=True)
def test_adapters_score_as_the_model_that_they_are_merged_into(toy_model, questions):
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        wrapped = get_peft_model(
            AutoModelForCausalLM.from_pretrained(toy_model),
            LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
        ).eval()
    found = _score(wrapped, questions, 4)
    expected = _score(wrapped.merge_and_unload(), questions, 4)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-3)

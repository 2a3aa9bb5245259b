"""Greedy generation against ``generate`` of transformers, for several kinds of models."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from epi_bench.evaluation.generation import generate_greedily
from epi_bench.evaluation.key_value_cache import empty_cache

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": SMALL,
    "mistral": {**SMALL, "sliding_window": 6},
    "gemma2": {**SMALL, "sliding_window": 6, "tie_word_embeddings": False},
    "gpt2": {
        "vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2,
        "bos_token_id": None, "eos_token_id": None, "tie_word_embeddings": False,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    """A random model whose answers vary: the larger its weights, the less it repeats itself."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = AutoConfig.for_model(request.param, **FAMILIES[request.param])
        made = AutoModelForCausalLM.from_config(config).eval()
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(std=0.5)
    made.config.use_cache = False  # as it is while training
    return made


def _prompts():
    generator = random.Random(0)
    return [
        [generator.randrange(1, 40) for _ in range(generator.randrange(1, 15))] for _ in range(11)
    ]


def _by_transformers(model, prompt, limit, stop, **settings):
    config = GenerationConfig(
        max_new_tokens=limit, do_sample=False, eos_token_id=stop, pad_token_id=0, **settings
    )
    with torch.no_grad():
        ids = torch.tensor([prompt])
        row = model.generate(ids, attention_mask=ids > -1, generation_config=config)[0]
    answer = row[len(prompt) :].tolist()
    return answer[:-1] if answer[-1] in stop else answer


def _stop_tokens(model):
    """Tokens that some answers reach early, some late and some never."""
    endless = _here(model, _prompts(), 20, [], 1)
    return sorted({endless[0][3], endless[4][7], endless[8][12]})


def _here(model, prompts, limit, stop, batch_size):
    return generate_greedily(
        model, prompts, max_new_tokens=limit, stop=stop, pad_token_id=0, batch_size=batch_size
    )


@pytest.mark.parametrize("batch_size", [1, 4, 11])
def test_the_tokens_are_those_of_transformers(model, batch_size):
    stop = _stop_tokens(model)
    expected = [_by_transformers(model, prompt, 20, stop) for prompt in _prompts()]
    lengths = {len(answer) for answer in expected}
    assert len(lengths) > 2  # rows end at different steps, otherwise this would prove little
    assert _here(model, _prompts(), 20, stop, batch_size) == expected


def test_rows_that_have_ended_leave_the_batch(model):
    stop, widths = _stop_tokens(model), []
    answers = _here(model, _prompts(), 20, stop, 11)

    def note(_module, _arguments, keywords):
        widths.append(len(keywords["input_ids"]))

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        assert _here(model, _prompts(), 20, stop, 11) == answers
    finally:
        hook.remove()
    # The pass at step s is for the rows whose answers have at least s tokens.
    assert widths == [
        width for s in range(20) if (width := sum(len(answer) >= s for answer in answers))
    ]


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_a_model_that_asks_for_a_repetition_penalty_gets_it(model, monkeypatch):
    plain = _here(model, _prompts()[:3], 8, [], 1)
    settings = GenerationConfig(repetition_penalty=5.0)
    monkeypatch.setattr(model, "generation_config", settings)
    expected = [
        _by_transformers(model, prompt, 8, [39], repetition_penalty=5.0)
        for prompt in _prompts()[:3]
    ]
    assert _here(model, _prompts()[:3], 8, [39], 1) == expected != plain


def test_a_recurrent_model_has_no_cache_to_share_and_generates_all_the_same():
    config = AutoConfig.for_model(
        "mamba", vocab_size=40, hidden_size=16, state_size=4, num_hidden_layers=1,
        eos_token_id=None, bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    assert empty_cache(model) is None
    expected = [_by_transformers(model, prompt, 5, [39]) for prompt in _prompts()[:2]]
    assert _here(model, _prompts()[:2], 5, [39], 1) == expected

"""Tokens and positions that a model does not know."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import transformers

from epi_bench.errors import UserError
from epi_bench.model.limits import check_fit, check_vocabulary, position_limit
from epi_bench.model.load import load_tokenizer
from epi_bench.model.location import locate_model
from epi_bench.spec.run_spec import ModelSpec


def test_a_tokenizer_larger_than_the_embedding_is_refused(saved, refusal, llama):
    message = refusal(saved(llama(vocab_size=290)))
    assert "which embeds 290, does not know" in message
    assert "and 6 more" in message


def test_a_token_far_beyond_the_embedding_is_refused_where_the_tokenizer_has_few(
    folder: Path, refusal, edit
):
    value = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = value["model"]["vocab"]
    for _ in range(2):
        del vocabulary["".join(value["model"]["merges"].pop())]
    vocabulary["zzz"] = 2**31
    edit(folder / "tokenizer.json", model=value["model"])
    assert "'zzz'" in refusal(folder)


def test_a_padded_embedding_is_read(saved, load, llama):
    assert load(saved(llama(vocab_size=320))).model.config.vocab_size == 320


def test_a_padding_token_beyond_the_embedding_is_refused(folder: Path, refusal):
    tokenizer = load_tokenizer(locate_model(ModelSpec(name=str(folder))))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    assert "does not know ('[PAD]')" in refusal(folder)


def test_a_special_token_beyond_the_embedding_is_refused_where_it_is_used(folder: Path, load):
    backbone = load(folder)
    rows = len(backbone.tokenizer)
    backbone.tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    check_vocabulary(backbone.model, backbone.tokenizer, "toy")
    check_fit(backbone.model, backbone.tokenizer, {}, {}, [[0, rows - 1]])
    with pytest.raises(UserError, match=rf"'<image>' \({rows}\)"):
        check_fit(backbone.model, backbone.tokenizer, {}, {}, [[1, 2], [rows, 0]])


def test_texts_longer_than_the_positions_are_refused(folder: Path, load):
    backbone = load(folder)
    fit = (backbone.model, backbone.tokenizer)
    assert check_fit(*fit, {"a text": 256}, {"a text": 256}, []) == []
    with pytest.raises(UserError, match="a text has 257 tokens, the model reads 256"):
        check_fit(*fit, {"short": 9, "a text": 257}, {}, [])


def test_an_answer_beyond_the_positions_is_a_warning_if_the_model_can_make_it(saved, load, llama):
    rotary = load(saved(llama(tie_word_embeddings=True)))
    assert check_fit(rotary.model, rotary.tokenizer, {}, {"a text": 65}, [])[0].startswith(
        "a text may take 65 tokens with its answer, the model reads 64"
    )
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=64)
    with pytest.raises(UserError, match="a text may take 65 tokens with its answer"):
        check_fit(transformers.GPT2LMHeadModel(config), rotary.tokenizer, {}, {"a text": 65}, [])


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (transformers.LlamaConfig(max_position_embeddings=64), 64),
        (transformers.GPT2Config(n_positions=32), 32),
        (transformers.MambaConfig(), None),
        (transformers.BloomConfig(), None),
        (
            transformers.LlamaConfig(
                max_position_embeddings=64,
                rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
            ),
            256,
        ),
        (
            transformers.LlamaConfig(
                max_position_embeddings=256,
                rope_parameters={
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 64,
                    "rope_theta": 1e4,
                },
            ),
            256,
        ),
        (SimpleNamespace(get_text_config=lambda: SimpleNamespace()), None),
    ],
)
def test_the_longest_text_a_model_reads(config, limit):
    assert position_limit(config) == limit

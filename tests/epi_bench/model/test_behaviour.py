"""Models that see the future, or count positions otherwise, are refused."""

from __future__ import annotations

import pytest
import torch
import transformers

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "vocab_size": 300,
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_encoder_is_refused(saved, dtype: str, refusal):
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES, initializer_range=0.1)
    folder = saved(transformers.BertForMaskedLM(config))
    assert "sees the tokens that it has to predict" in refusal(folder, dtype)


def test_the_same_architecture_as_a_decoder_is_read(saved, load):
    config = transformers.BertConfig(**SIZES, is_decoder=True)
    assert load(saved(transformers.BertLMHeadModel(config))).model.config.is_decoder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["GPT2", "OPT", "Mixtral", "Mamba", "BioGpt"])
def test_causal_models_of_other_kinds_are_read(saved, kind: str, dtype: str, load):
    settings = {**SIZES, "ffn_dim": 32, "num_key_value_heads": 2, "word_embed_proj_dim": 16}
    if kind == "GPT2":
        settings = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 300}
    config = getattr(transformers, f"{kind}Config")(**settings)
    model = getattr(transformers, "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")
    assert load(saved(model(config)), dtype).warnings == ()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_does_not_count_positions_from_0_is_refused(saved, dtype: str, refusal):
    """RoBERTa counts from its padding token's number plus 1, unless positions are given."""
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        **SIZES, is_decoder=True, pad_token_id=1, initializer_range=0.1
    )
    folder = saved(transformers.RobertaForCausalLM(config))
    assert "does not count the positions of a text from 0" in refusal(folder, dtype)


def test_an_encoder_with_a_decoder_is_refused(saved, refusal):
    config = transformers.T5Config(
        vocab_size=300, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    assert "only causal language models" in refusal(
        saved(transformers.T5ForConditionalGeneration(config))
    )

"""The mask strategies on the architectures that people fine-tune, tiny and with random weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers

from epi_bench.strategy.hooks import Step
from epi_bench.strategy.strategy import create_strategy

VOCABULARY = 48
COMMON = {"vocab_size": VOCABULARY, "max_position_embeddings": 32}
SHAPE = {
    **COMMON,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
FAMILIES = {
    "Llama": SHAPE,
    "Mistral": {**SHAPE, "sliding_window": 4},
    "Qwen2": SHAPE,
    "Qwen3": {**SHAPE, "tie_word_embeddings": True},
    "Gemma2": {**SHAPE, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "Gemma3Text": {**SHAPE, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "GPT2": {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2},
    "GPTNeoX": {key: SHAPE[key] for key in SHAPE if key not in ("num_key_value_heads", "head_dim")},
    "Mixtral": {**SHAPE, "num_local_experts": 16, "num_experts_per_tok": 1},
    "Qwen3Moe": {**SHAPE, "moe_intermediate_size": 8, "num_experts": 16, "num_experts_per_tok": 2},
}
"""Name of the configuration class, without ``Config``, and its arguments."""

TIED = ("Qwen3", "Gemma2", "Gemma3Text", "GPT2")
MIXTURES = ("Mixtral", "Qwen3Moe")
STRATEGIES = {
    "epi": {"interval": 2, "warmup": 1},
    "static_mask": {"measure": "warmup", "warmup": 2},
    "random_mask": {"interval": 2, "warmup": 1},
    "inverted_mask": {"interval": 2, "warmup": 1},
}
RATIO = 0.3


def _model(family, dtype=torch.float32):
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).to(dtype).train()


def _train(model, strategy, witness, steps=4, tokens=24):
    """A bare loop that calls a strategy's hooks; returns the witness of its steps."""
    generators = {}

    def torch_generator(purpose):
        return generators.setdefault(purpose, torch.Generator().manual_seed(len(generators)))

    strategy.context = SimpleNamespace(model=model, seed=0, torch_generator=torch_generator)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.5)
    watch, draws = witness(strategy.isolation), torch.Generator().manual_seed(1)
    for number in range(1, steps + 1):
        ids = torch.randint(0, VOCABULARY, (2, tokens // 2), generator=draws)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        step = Step(number, number, None, model, optimizer, loss.detach())
        strategy.gradients_ready(step)
        optimizer.step()
        strategy.parameters_updated(step)
        optimizer.zero_grad()
        watch.check()
    return watch


def _strategy(name, **options):
    return create_strategy(name, {"ratio": RATIO, **STRATEGIES[name], **options})


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_protected_weights_are_bit_identical_between_refreshes(family, name, witness):
    model, strategy = _model(family), _strategy(name)
    watch = _train(model, strategy, witness)
    isolation = strategy.isolation
    assert isolation.size == sum(p.numel() for p in model.parameters())  # tied ones once
    assert isolation.protected_count == isolation.target_count == round(RATIO * isolation.size)
    assert watch.checked == (2 if name == "static_mask" else 3) * isolation.target_count


@pytest.mark.parametrize("family", TIED)
def test_a_tied_embedding_is_protected_once(family, witness):
    model, strategy = _model(family), _strategy("epi")
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert head.weight is embedding.weight
    _train(model, strategy, witness)
    held = [n for n, p in strategy.isolation.parameters.items() if p is embedding.weight]
    assert len(held) == 1
    assert bool(strategy.isolation.masks[held[0]].any())


@pytest.mark.parametrize("normalisation", ["min_max", "mean", "rank"])
@pytest.mark.parametrize("family", MIXTURES)
def test_an_expert_that_no_token_reached_is_left_free(family, normalisation, witness):
    model, strategy = _model(family), _strategy("epi", normalisation=normalisation)
    _train(model, strategy, witness, steps=3, tokens=4)
    importance = strategy.isolation.importance.values
    unused = 0
    for name, mask in strategy.isolation.masks.items():
        scores = importance[name]
        if "experts" in name:
            unused += int((scores.flatten(1) == 0).all(dim=1).sum())
        assert not bool(mask[scores.view(-1) == 0].any())
    assert unused >= 4  # at most 12 visits and 16 experts in each layer


@pytest.mark.parametrize("family", MIXTURES)
def test_the_inverted_mask_takes_experts_that_no_token_reached_first(family, witness):
    model, strategy = _model(family), _strategy("inverted_mask", normalisation="mean")
    _train(model, strategy, witness, steps=3, tokens=4)
    taken = torch.cat(list(strategy.isolation.masks.values()))
    zero = torch.cat([v.view(-1) == 0 for v in strategy.isolation.importance.values.values()])
    assert int((taken & zero).sum()) == min(int(zero.sum()), int(taken.sum())) > 0


@pytest.mark.parametrize("family", ["Llama", "GPT2", "Mixtral"])
def test_frozen_parameters_are_ignored(family, witness):
    model, strategy = _model(family), _strategy("epi")
    frozen = model.get_input_embeddings().weight.requires_grad_(False)
    before = frozen.clone()
    _train(model, strategy, witness)
    assert all(p is not frozen for p in strategy.isolation.parameters.values())
    assert strategy.isolation.protected_count == strategy.isolation.target_count
    assert torch.equal(frozen, before)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.parametrize("family", ["Llama", "Gemma3Text", "GPT2", "Mixtral"])
def test_gradient_checkpointing_gives_the_same_mask(family, witness):
    masks = []
    for checkpointing in (False, True):
        model, strategy = _model(family), _strategy("epi")
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert any(
                getattr(module, "gradient_checkpointing", False) for module in model.modules()
            )
        _train(model, strategy, witness)
        masks.append(strategy.isolation.masks)
    for name, mask in masks[0].items():
        assert torch.equal(mask, masks[1][name])


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Mixtral"])
def test_bfloat16_weights_are_held_too(family, name, witness):
    model, strategy = _model(family, torch.bfloat16), _strategy(name)
    _train(model, strategy, witness)
    assert strategy.isolation.protected_count == strategy.isolation.target_count


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_with_adapters_the_mask_lives_on_adapter_weights(family, name, witness):
    from peft import LoraConfig, get_peft_model

    targets = {"Llama": ["q_proj", "down_proj"], "GPT2": ["c_attn", "c_fc"]}[family]
    config = LoraConfig(
        r=4, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=family == "GPT2"
    )
    base = _model(family)
    frozen = {name: parameter.clone() for name, parameter in base.named_parameters()}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = get_peft_model(base, config)
    strategy = _strategy(name)
    _train(model, strategy, witness)
    assert all("lora_" in parameter for parameter in strategy.isolation.parameters)
    assert strategy.isolation.protected_count == strategy.isolation.target_count
    kept = {n.replace(".base_layer", ""): p for n, p in base.named_parameters() if "lora_" not in n}
    assert all(torch.equal(kept[name], before) for name, before in frozen.items())

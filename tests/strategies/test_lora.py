"""Which layers LoRA adapts, and that the merged model is the trained one."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from epi_bench import TrainingFailedError, UserError
from epi_bench.strategies.lora import LoRA


def llama(tied=False, dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=tied,
        )
        return LlamaForCausalLM(config).to(dtype)


def adapted(target_modules, **options):
    model = LoRA(rank=4, target_modules=target_modules).prepare_model(llama(**options))
    names = {n.split(".lora_")[0] for n, _ in model.named_parameters() if ".lora_" in n}
    return {name.removeprefix("base_model.model.").removeprefix("model.") for name in names}


def layers(*names):
    return {
        f"layers.{i}.{'mlp' if 'gate' in n or 'up' in n or 'down' in n else 'self_attn'}.{n}"
        for i in range(2)
        for n in names
    }


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("q_proj", layers("q_proj")),
        ("q_proj,v_proj", layers("q_proj", "v_proj")),
        (" q_proj , v_proj, ", layers("q_proj", "v_proj")),
        ("self_attn.q_proj", layers("q_proj")),
        ("layers.1.mlp.up_proj", {"layers.1.mlp.up_proj"}),
        ("q_proj,lm_head,embed_tokens", {*layers("q_proj"), "lm_head", "embed_tokens"}),
        (
            "all-linear",
            layers(
                "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
            ),
        ),
    ],
)  # fmt: skip
def test_the_layers_asked_for_are_adapted(asked, expected):
    assert adapted(asked) == expected


@pytest.mark.parametrize("tied", [False, True])
def test_all_linear_is_what_peft_makes_of_it(tied):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    peer = get_peft_model(llama(tied), config).base_model.targeted_module_names
    assert {name.removeprefix("model.") for name in peer} == adapted("all-linear", tied=tied)


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [
        ("q_prj", "'q_prj', but the model has no such layer: did you mean 'q_proj'"),
        ("q_proj,v_prj", "'v_prj', but the model has no such layer: did you mean 'v_proj'"),
        ("q_proj;v_proj", "'q_proj;v_proj', but"),
        ("q_proj v_proj", "'q_proj v_proj', but"),
        ("mlp", "'mlp', but the model has no such layer"),
        ("proj", "'proj', but"),
        ("norm", "'norm', but"),
        (".*q_proj", "did you mean 'q_proj'"),
        ("all-linear,lm_head", "'all-linear', but .* all-linear stands alone"),
        ("All_Linear", "did you mean 'all-linear'"),
        ("zzz", "choose from: all-linear, down_proj, embed_tokens, gate_proj, k_proj"),
    ],
)
def test_a_name_without_a_layer_is_refused(asked, remedy):
    with pytest.raises(UserError, match=f"lora: target_modules names .*{remedy}"):
        LoRA(target_modules=asked).check_model(llama())


@pytest.mark.parametrize("asked", ["", " ", ",", " , "])
def test_no_name_is_refused(asked):
    with pytest.raises(UserError, match="names no layer"):
        LoRA(target_modules=asked)


@pytest.mark.parametrize("name", ["embed_tokens", "lm_head"])
def test_tied_embeddings_are_refused(name):
    with pytest.raises(UserError, match=rf"\(tied weights\): .*so leave '{name}' out"):
        LoRA(target_modules=f"q_proj,{name}").check_model(llama(tied=True))
    LoRA(target_modules=f"q_proj,{name}").check_model(llama(tied=False))


def test_a_layer_used_in_two_places_is_refused():
    model = llama()
    model.model.layers[1].mlp.up_proj = model.model.layers[0].mlp.up_proj
    with pytest.raises(UserError, match=r"adapts 'model.layers.0.mlp.up_proj', .*layers.1.mlp"):
        LoRA().check_model(model)
    LoRA(target_modules="down_proj").check_model(model)


def test_nothing_is_written_for_a_refused_model(run_toy, tmp_path):
    options = {"target_modules": "q_proj,embed_tokens"}  # the toy model ties its embeddings
    with pytest.raises(UserError, match="tied weights"):
        run_toy("lora", options, out=tmp_path)
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("asked", ["all-linear", "embed_tokens,lm_head,q_proj"])
def test_the_merged_model_is_the_trained_one(dtype, asked):
    strategy = LoRA(rank=4, target_modules=asked)
    model = strategy.prepare_model(llama(dtype=dtype))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.05, generator=generator)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = model.eval()(input_ids=ids).logits.float()
        merged = strategy.finalize_model(model)
        after = merged(input_ids=ids).logits.float()
    share = ((after - before).norm() / before.norm()).item()
    assert share < (1e-5 if dtype is torch.float32 else 0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("asked", ["all-linear", "embed_tokens,lm_head,q_proj"])
def test_between_experiences_the_merged_model_is_scored(dtype, asked):
    """So a rounded merge costs in every row and not in the last alone."""
    strategy = LoRA(rank=4, target_modules=asked)
    model = strategy.prepare_model(llama(dtype=dtype)).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.05, generator=generator)
    ids = torch.arange(20)[None]
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        trained = model(input_ids=ids).logits
        with strategy.as_finished(model) as finished:
            scored = finished(input_ids=ids).logits
        assert torch.equal(model(input_ids=ids).logits, trained)
        assert all(torch.equal(before[name], now) for name, now in model.named_parameters())
        merged = strategy.finalize_model(model)(input_ids=ids).logits
    if dtype is torch.float32:
        assert torch.equal(scored, trained)
        torch.testing.assert_close(scored, merged, rtol=1e-4, atol=1e-5)
    else:
        assert torch.equal(scored, merged)
        assert not torch.equal(scored, trained)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merge_that_gives_another_model_fails(dtype):
    from peft import LoraConfig, get_peft_model

    tied = llama(tied=True, dtype=dtype)  # as the strategy itself would refuse it
    model = get_peft_model(tied, LoraConfig(r=4, target_modules=["embed_tokens"]))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.fill_(0.05)
    with pytest.raises(TrainingFailedError, match="the merged model is not the trained one"):
        LoRA().finalize_model(model)

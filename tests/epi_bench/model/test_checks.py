"""Models whose numbers would say nothing about their files are refused in one line."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from epi_bench.errors import UserError
from epi_bench.model.limits import check_fit, check_vocabulary, position_limit
from epi_bench.model.load import load_backbone, load_tokenizer
from epi_bench.model.location import locate_model
from epi_bench.model.stored_weights import check_files
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.many_runs import run_in_process
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.request import RunRequest
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.run_spec import ModelSpec

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "vocab_size": 300,
}


@pytest.fixture
def folder(toy_model: Path, tmp_path: Path) -> Path:
    """A copy of the toy model."""
    return Path(shutil.copytree(toy_model, tmp_path / "model"))


@pytest.fixture
def saved(folder: Path):
    """Saves a model over the toy model, beside its tokenizer."""

    def save(model: transformers.PreTrainedModel) -> Path:
        for name in ("config.json", "generation_config.json", "model.safetensors"):
            (folder / name).unlink()
        model.save_pretrained(folder)
        return folder

    return save


def load(folder: Path, dtype: str = "float32"):
    return load_backbone(ModelSpec(name=str(folder), dtype=dtype))


def refusal(folder: Path, dtype: str = "float32") -> str:
    """The one line with which a model is refused."""
    with pytest.raises(UserError) as caught:
        load(folder, dtype)
    message = str(caught.value)
    assert "\n" not in message
    assert "epi-bench-model-" not in message  # the temporary folder is nobody's business
    return message


def edit(path: Path, **changes) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, **changes}))


def llama(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(**{**SIZES, **settings})
        return transformers.LlamaForCausalLM(config)


def change_tensors(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


# missing, mismatched, unused


def test_weights_without_their_head_are_refused(saved):
    folder = saved(llama(tie_word_embeddings=False))
    change_tensors(folder, lambda tensors: {k: v for k, v in tensors.items() if k[:2] != "lm"})
    message = refusal(folder)
    assert "lack 1 of the model's tensors (lm_head.weight)" in message
    assert "LlamaForCausalLM" in message


def test_a_tied_head_is_not_missing(saved):
    model = llama(tie_word_embeddings=True)
    backbone = load(saved(model))
    assert backbone.warnings == ()
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(backbone.model(ids).logits, model.eval()(ids).logits)


def test_a_model_saved_without_its_head_class_but_tied_is_read(saved):
    model = llama(tie_word_embeddings=True)
    backbone = load(saved(model.model))
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(backbone.model(ids).logits, model.eval()(ids).logits)


def test_one_missing_tensor_of_a_layer_is_refused(folder: Path):
    gone = "model.layers.1.mlp.up_proj.weight"
    change_tensors(folder, lambda tensors: {k: v for k, v in tensors.items() if k != gone})
    assert f"lack 1 of the model's tensors ({gone})" in refusal(folder)


def test_weights_with_none_of_the_models_tensors_are_refused(folder: Path):
    change_tensors(folder, lambda _: {f"t.{i}": torch.ones(9000) for i in range(9)})
    assert "which would be random" in refusal(folder)


def test_the_configuration_of_another_architecture_is_refused(folder: Path):
    edit(folder / "config.json", model_type="bert", architectures=["BertForMaskedLM"])
    assert "which would be random" in refusal(folder)


def test_another_shape_is_refused_by_name(folder: Path):
    edit(folder / "config.json", intermediate_size=96)
    assert "mlp.down_proj.weight has the shape (32, 64), the configuration says (32, 96)" in (
        refusal(folder)
    )


def test_fewer_layers_than_the_weights_have_are_refused(folder: Path):
    edit(folder / "config.json", num_hidden_layers=1)
    message = refusal(folder)
    assert "leaves out 9 tensors" in message
    assert "model.layers.1." in message


def test_a_few_foreign_tensors_are_used_by_nobody_and_named(folder: Path):
    change_tensors(folder, lambda tensors: {**tensors, "v_head.weight": torch.ones(32)})
    assert load(folder).warnings == (
        f"1 tensors in the weights of {folder} are not used: v_head.weight",
    )


def test_many_foreign_tensors_are_refused(folder: Path):
    def change(tensors):
        return {**tensors, **{f"vision.a{chr(97 + i)}": torch.ones(2) for i in range(9)}}

    change_tensors(folder, change)
    assert "uses 20 of the 29 tensors" in refusal(folder)


def test_layers_that_predict_several_tokens_are_left_out_knowingly(folder: Path):
    extra = {"model.layers.2.mlp.up_proj.weight": torch.ones(64, 32)}
    change_tensors(folder, lambda tensors: {**tensors, **extra})
    assert "leaves out 1 tensors" in refusal(folder)
    edit(folder / "config.json", num_nextn_predict_layers=1)
    assert "model.layers.2.mlp.up_proj.weight" in load(folder).warnings[0]


def test_old_rotary_buffers_are_no_matter(folder: Path):
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    change_tensors(folder, lambda tensors: {**tensors, **buffer})
    assert load(folder).warnings == ()


def test_weights_that_are_not_finite_are_refused(folder: Path):
    def change(tensors):
        tensors["model.norm.weight"][3] = float("inf")
        return tensors

    change_tensors(folder, change)
    assert "model.norm.weight holds NaN or infinity" in refusal(folder)


# who sees the future, and who counts otherwise


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_encoder_is_refused(saved, dtype: str):
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES, initializer_range=0.1)
    folder = saved(transformers.BertForMaskedLM(config))
    assert "sees the tokens that it has to predict" in refusal(folder, dtype)


def test_the_same_architecture_as_a_decoder_is_read(saved):
    config = transformers.BertConfig(**SIZES, is_decoder=True)
    assert load(saved(transformers.BertLMHeadModel(config))).model.config.is_decoder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["GPT2", "OPT", "Mixtral", "Mamba", "BioGpt"])
def test_causal_models_of_other_kinds_are_read(saved, kind: str, dtype: str):
    settings = {**SIZES, "ffn_dim": 32, "num_key_value_heads": 2, "word_embed_proj_dim": 16}
    if kind == "GPT2":
        settings = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 300}
    config = getattr(transformers, f"{kind}Config")(**settings)
    model = getattr(transformers, "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")
    assert load(saved(model(config)), dtype).warnings == ()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_does_not_count_positions_from_0_is_refused(saved, dtype: str):
    """RoBERTa counts from its padding token's number plus 1, unless positions are given."""
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        **SIZES, is_decoder=True, pad_token_id=1, initializer_range=0.1
    )
    folder = saved(transformers.RobertaForCausalLM(config))
    assert "does not count the positions of a text from 0" in refusal(folder, dtype)


def test_an_encoder_with_a_decoder_is_refused(saved):
    config = transformers.T5Config(
        vocab_size=300, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    assert "only causal language models" in refusal(
        saved(transformers.T5ForConditionalGeneration(config))
    )


# files that cannot be what they say


@pytest.mark.parametrize(
    "settings",
    [
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"quantization_config": {"quant_method": "compressed-tensors"}},
        {"quantization": {"group_size": 64, "bits": 4}},
    ],
)
def test_quantised_weights_are_refused_with_the_remedy(folder: Path, settings):
    edit(folder / "config.json", **settings)
    message = refusal(folder)
    assert "quantised" in message
    assert "unquantised weights" in message


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_weights_are_known_without_their_configuration(folder: Path, dtype):
    def change(tensors):
        return {k: v.clamp(-1, 1).to(dtype) if "proj" in k else v for k, v in tensors.items()}

    change_tensors(folder, change)
    assert "are quantised (model.layers.0.mlp.down_proj.weight is" in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [b"", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 10) + b"x" * 10, None],
    ids=["empty", "huge header", "no header", "half"],
)
def test_damaged_weights_are_refused(folder: Path, content):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert f"cannot read the weights in {path}" in refusal(folder)


def test_weights_of_another_name_are_refused_and_a_pickle_is_not_read(folder: Path):
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert "has no model.safetensors (other.safetensors is not read)" in refusal(folder)


@pytest.mark.parametrize("shard", ["model-00002-of-00002.safetensors", "../../outside.safetensors"])
def test_an_index_that_names_absent_or_outer_files_is_refused(folder: Path, shard: str):
    whole = folder / "model.safetensors"
    shutil.copy(whole, folder.parent / "outside.safetensors")
    whole.rename(folder / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks weights that its index names" in refusal(folder)


def test_shards_are_read(folder: Path):
    tensors = load(folder).model.state_dict()
    model = load(folder).model
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    again = load(folder).model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_an_adapter_is_refused_alone_and_beside_a_model(folder: Path, tmp_path: Path):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    assert "merge it into its base model" in refusal(folder)
    (folder / "config.json").unlink()
    assert "merge it into its base model" in refusal(folder)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"vocab_size": 10**9}, "they are of another model"),
        ({"hidden_size": 4096}, "they are of another model"),
        ({"num_hidden_layers": 10**6}, "says 1000000 layers"),
        ({"vocab_size": 10}, "do not fit its configuration"),
        ({"hidden_size": -1}, "cannot load"),
        ({"hidden_size": "x"}, "cannot load"),
        ({"num_attention_heads": 0}, "cannot load"),
        ({"model_type": "nope"}, "cannot load"),
        ({"model_type": ["llama"]}, "cannot load"),
        ({"dtype": "evil"}, "cannot load"),
        ({"rope_parameters": {"rope_type": "x"}}, "cannot load"),
    ],
)
def test_configurations_that_lie_are_refused(folder: Path, settings, told: str):
    edit(folder / "config.json", **settings)
    assert told in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b'{"a":', b"[]", b"\xff\xfe\0", b"[" * 100_000])
def test_damaged_json_is_refused(folder: Path, name: str, content: bytes):
    (folder / name).write_bytes(content)
    assert refusal(folder).startswith("cannot ") or "holds no JSON object" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no GGUF file"),
        (b"x" * 1000, "is no GGUF file"),
        (b"GGUF", "cannot load"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 2**40), "cannot load"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "cannot load"),
    ],
)
def test_damaged_gguf_files_are_refused(tmp_path: Path, content: bytes, told: str):
    pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert told in refusal(path)


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe"])
def test_general_text_must_be_text(folder: Path, content: bytes):
    (folder / "general_text.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"general_text\.txt"):
        check_files(locate_model(ModelSpec(name=str(folder))))


# tokens and positions


def test_a_tokenizer_larger_than_the_embedding_is_refused(saved):
    message = refusal(saved(llama(vocab_size=290)))
    assert "which embeds 290, does not know" in message
    assert "and 6 more" in message


def test_a_token_far_beyond_the_embedding_is_refused_where_the_tokenizer_has_few(folder: Path):
    value = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = value["model"]["vocab"]
    for _ in range(2):
        del vocabulary["".join(value["model"]["merges"].pop())]
    vocabulary["zzz"] = 2**31
    edit(folder / "tokenizer.json", model=value["model"])
    assert "'zzz'" in refusal(folder)


def test_a_padded_embedding_is_read(saved):
    assert load(saved(llama(vocab_size=320))).model.config.vocab_size == 320


def test_a_padding_token_beyond_the_embedding_is_refused(folder: Path):
    tokenizer = load_tokenizer(locate_model(ModelSpec(name=str(folder))))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    assert "does not know ('[PAD]')" in refusal(folder)


def test_a_special_token_beyond_the_embedding_is_refused_where_it_is_used(folder: Path):
    backbone = load(folder)
    rows = len(backbone.tokenizer)
    backbone.tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    check_vocabulary(backbone.model, backbone.tokenizer, "toy")
    check_fit(backbone.model, backbone.tokenizer, {}, {}, [[0, rows - 1]])
    with pytest.raises(UserError, match=rf"'<image>' \({rows}\)"):
        check_fit(backbone.model, backbone.tokenizer, {}, {}, [[1, 2], [rows, 0]])


def test_texts_longer_than_the_positions_are_refused(folder: Path):
    backbone = load(folder)
    fit = (backbone.model, backbone.tokenizer)
    assert check_fit(*fit, {"a text": 256}, {"a text": 256}, []) == []
    with pytest.raises(UserError, match="a text has 257 tokens, the model reads 256"):
        check_fit(*fit, {"short": 9, "a text": 257}, {}, [])


def test_an_answer_beyond_the_positions_is_a_warning_if_the_model_can_make_it(saved):
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


# nothing is written, and the others go on


@pytest.mark.parametrize(
    ("positions", "told"),
    [
        (16, "the general text has 23 tokens"),
        (23, "a text of task 'toy_second' may take 24 tokens with its answer"),
    ],
)
def test_a_run_that_does_not_fit_writes_nothing(
    saved, toy_spec, tmp_path: Path, positions: int, told: str
):
    config = transformers.GPT2Config(
        n_embd=16, n_layer=1, n_head=2, n_positions=positions, vocab_size=300
    )
    folder = saved(transformers.GPT2LMHeadModel(config))
    spec = toy_spec(tasks=["toy_second"])
    data = spec.data.model_copy(update={"max_length": 23})
    update = {"model": ModelSpec(name=str(folder)), "data": data}
    request = RunRequest(Workspace(tmp_path / "out"))
    outcomes = list(run_in_process([spec.model_copy(update=update)], request, RunObserver()))
    assert told in outcomes[0].error
    assert not (tmp_path / "out").exists()


def test_later_runs_are_tried_after_a_refused_model(
    folder: Path, toy_model: Path, toy_tasks, tmp_path: Path
):
    change_tensors(folder, lambda _: {f"t.{i}": torch.ones(9000) for i in range(9)})
    specs = [
        complete_spec(
            {
                "model": {"name": str(model)},
                "strategy": {"name": "full_sft"},
                "data": {"tasks": ["toy_first"], "max_length": 64},
                "training": {"steps": 1},
                "evaluation": {"probe_examples": 0},
            }
        )
        for model in (folder, tmp_path / "nowhere", toy_model)
    ]
    request = RunRequest(Workspace(tmp_path / "out"), references=True)
    first, second, third = run_in_process(specs, request, RunObserver())
    assert "which would be random" in first.error
    assert "does not exist" in second.error
    assert third.succeeded
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 1


def test_a_task_that_breaks_while_its_test_examples_are_encoded_leaves_a_record(
    run_toy, monkeypatch: pytest.MonkeyPatch
):
    def broken(prepared):
        raise ValueError("a plugin's fault")

    monkeypatch.setattr("epi_bench.runs.experiment.make_evaluator", broken)
    record = run_toy().record
    assert (record.status, record.error) == ("failed", "ValueError: a plugin's fault")

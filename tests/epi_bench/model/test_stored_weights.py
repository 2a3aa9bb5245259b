"""Files that cannot be what they say are refused before they are loaded."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch

from epi_bench.errors import UserError
from epi_bench.model.location import locate_model
from epi_bench.model.stored_weights import check_files
from epi_bench.spec.run_spec import ModelSpec


@pytest.mark.parametrize(
    "settings",
    [
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"quantization_config": {"quant_method": "compressed-tensors"}},
        {"quantization": {"group_size": 64, "bits": 4}},
    ],
)
def test_quantised_weights_are_refused_with_the_remedy(folder: Path, settings, refusal, edit):
    edit(folder / "config.json", **settings)
    message = refusal(folder)
    assert "quantised" in message
    assert "unquantised weights" in message


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_weights_are_known_without_their_configuration(
    folder: Path, dtype, refusal, change_tensors
):
    def change(tensors):
        return {k: v.clamp(-1, 1).to(dtype) if "proj" in k else v for k, v in tensors.items()}

    change_tensors(folder, change)
    assert "are quantised (model.layers.0.mlp.down_proj.weight is" in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [b"", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 10) + b"x" * 10, None],
    ids=["empty", "huge header", "no header", "half"],
)
def test_damaged_weights_are_refused(folder: Path, content, refusal):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert f"cannot read the weights in {path}" in refusal(folder)


def test_weights_of_another_name_are_refused_and_a_pickle_is_not_read(folder: Path, refusal):
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert "has no model.safetensors (other.safetensors is not read)" in refusal(folder)


@pytest.mark.parametrize("shard", ["model-00002-of-00002.safetensors", "../../outside.safetensors"])
def test_an_index_that_names_absent_or_outer_files_is_refused(folder: Path, shard: str, refusal):
    whole = folder / "model.safetensors"
    shutil.copy(whole, folder.parent / "outside.safetensors")
    whole.rename(folder / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks weights that its index names" in refusal(folder)


def test_shards_are_read(folder: Path, load):
    tensors = load(folder).model.state_dict()
    model = load(folder).model
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    again = load(folder).model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_an_adapter_is_refused_alone_and_beside_a_model(folder: Path, tmp_path: Path, refusal):
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
def test_configurations_that_lie_are_refused(folder: Path, settings, told: str, refusal, edit):
    edit(folder / "config.json", **settings)
    assert told in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b'{"a":', b"[]", b"\xff\xfe\0", b"[" * 100_000])
def test_damaged_json_is_refused(folder: Path, name: str, content: bytes, refusal):
    (folder / name).write_bytes(content)
    assert refusal(folder).startswith("cannot ") or "holds no JSON object" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is not a GGUF file"),
        (b"x" * 1000, "is not a GGUF file"),
        (b"GGUF", "cannot load"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 2**40), "cannot load"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "cannot load"),
    ],
)
def test_damaged_gguf_files_are_refused(tmp_path: Path, content: bytes, told: str, refusal):
    pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert told in refusal(path)


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe"])
def test_general_text_must_be_text(folder: Path, content: bytes):
    (folder / "general_text.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"general_text\.txt"):
        check_files(locate_model(ModelSpec(name=str(folder))))

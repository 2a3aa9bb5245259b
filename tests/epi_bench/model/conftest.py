"""Copies of the toy model that tests damage, and other small models to save over them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from epi_bench.errors import UserError
from epi_bench.model.load import load_backbone
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


@pytest.fixture
def load():
    """Loads the model in a folder."""

    def load_model(folder: Path, dtype: str = "float32"):
        return load_backbone(ModelSpec(name=str(folder), dtype=dtype))

    return load_model


@pytest.fixture
def refusal(load):
    """The one line with which a model is refused."""

    def refuse(folder: Path, dtype: str = "float32") -> str:
        with pytest.raises(UserError) as caught:
            load(folder, dtype)
        message = str(caught.value)
        assert "\n" not in message
        assert "epi-bench-model-" not in message  # the temporary folder is nobody's business
        return message

    return refuse


@pytest.fixture
def edit():
    """Changes some values of a JSON file."""

    def change(path: Path, **changes) -> None:
        value = json.loads(path.read_text())
        path.write_text(json.dumps({**value, **changes}))

    return change


@pytest.fixture
def llama():
    """A small random Llama."""

    def make(**settings):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = transformers.LlamaConfig(**{**SIZES, **settings})
            return transformers.LlamaForCausalLM(config)

    return make


@pytest.fixture
def change_tensors():
    """Rewrites the tensors of a model folder."""

    def rewrite(folder: Path, change) -> None:
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return rewrite

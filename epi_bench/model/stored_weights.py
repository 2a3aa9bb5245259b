"""What a model's configuration and file headers rule out, before any weights are loaded.

Refused are quantised weights, models with an encoder, damaged files, and configurations of another
model than the weights are of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epi_bench.errors import UserError
from epi_bench.model.location import (
    ModelLocation,
    general_text,
    read_json_object,
    weight_files,
)

FLOATING_TYPES = ("F64", "F32", "F16", "BF16")
"""Types of weights that can be trained, as safetensors calls them."""


@dataclass(frozen=True)
class StoredTensor:
    """What the header of a safetensors file says of a tensor."""

    name: str
    dtype: str
    elements: int


def check_files(location: ModelLocation) -> None:
    """Refuse what configuration and file headers rule out, before anything large is read.

    Raises:
        UserError: For quantised weights, models with an encoder, and damaged files.
    """
    general_text(location)
    if location.gguf_file:
        return
    config = read_json_object(location.folder / "config.json")
    _check_quantization(location.folder, config)
    if config.get("is_encoder_decoder") is True:
        raise UserError(
            f"the model in {location.folder} has an encoder and a decoder: "
            "only causal language models are benchmarked"
        )
    for tensor in stored_tensors(location):
        if _is_quantized(tensor):
            raise _quantized(location.folder, f"{tensor.name} is {tensor.dtype}")


def stored_tensors(location: ModelLocation) -> list[StoredTensor]:
    """The tensors in the files that transformers will read, from their headers alone.

    Raises:
        UserError: If a file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    found = []
    for path in weight_files(location):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  (the file is no mapping)
                    part = file.get_slice(name)
                    elements = 1
                    for size in part.get_shape():
                        elements *= size
                    found.append(StoredTensor(name, part.get_dtype(), elements))
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"cannot read the weights in {path} ({error}): copy the file again"
            ) from error
    return found


def check_sizes(config: Any, location: ModelLocation) -> int:
    """Refuse a configuration whose model is far larger than its files, before it is built.

    Smaller differences are named exactly once the model is loaded.

    Args:
        config: Of transformers.
        location: Of the safetensors files.

    Returns:
        How many tensors the files hold.

    Raises:
        UserError: If the model would have more layers than there are tensors, or more than twice
            the parameters.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tensors = stored_tensors(location)
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > len(tensors):
        raise UserError(
            f"the configuration in {location.folder} says {layers} layers, the weights hold "
            f"{len(tensors)} tensors: they are of another model"
        )
    with torch.random.fork_rng(devices=()), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    wanted = sum(parameter.numel() for parameter in model.parameters())
    stored = sum(tensor.elements for tensor in tensors)
    if wanted > 2 * stored:
        raise UserError(
            f"the configuration in {location.folder} says {wanted:,} parameters, the weights hold "
            f"{stored:,}: they are of another model"
        )
    return len(tensors)


def _check_quantization(folder: Path, config: Mapping[str, Any]) -> None:
    for key in ("quantization_config", "quantization", "compression_config"):
        settings = config.get(key)
        if settings:
            method = settings.get("quant_method") if isinstance(settings, dict) else None
            raise _quantized(folder, str(method or key))


def _quantized(folder: Path, how: str) -> UserError:
    return UserError(
        f"the weights in {folder} are quantised ({how}) and cannot be trained: take the model's "
        "unquantised weights, or load it with transformers, call dequantize() and save it"
    )


def _is_quantized(tensor: StoredTensor) -> bool:
    """Whether a tensor holds packed weights; masks and positions may be integers."""
    if tensor.dtype in FLOATING_TYPES or tensor.dtype == "BOOL":
        return False
    packed = re.search(r"(weight|weight_packed|_blocks|_proj)$", tensor.name)
    return packed is not None or tensor.dtype.startswith(("F8", "F4"))

"""Loading a causal language model with its tokenizer, from wherever it lies.

Accepted are ``tiny`` (shipped with the package), a local folder in the layout of ``transformers``,
a ``.gguf`` file, and a hub id. Weights are read from safetensors or GGUF only: pickled weights and
code from model repositories are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epi_bench.errors import UserError
from epi_bench.model.behaviour import check_causal, check_positions
from epi_bench.model.limits import check_vocabulary
from epi_bench.model.loaded_weights import check_loaded
from epi_bench.model.location import ModelLocation, locate_model
from epi_bench.model.stored_weights import check_files, check_sizes
from epi_bench.spec.run_spec import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


LONGEST_REASON = 200
"""Characters of a library's error message that are shown."""


@dataclass
class Backbone:
    """A model ready to be trained, and its tokenizer.

    Attributes:
        model: In evaluation mode, on the CPU.
        tokenizer: With a padding token.
        location: Where both come from.
        warnings: What the user should know of the files.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    location: ModelLocation
    warnings: tuple[str, ...] = ()


def load_backbone(spec: ModelSpec, location: ModelLocation | None = None) -> Backbone:
    """Load model and tokenizer.

    .. code-block:: python

        backbone = load_backbone(ModelSpec(name="models/SmolLM2-135M", dtype="bfloat16"))
        backbone.model, backbone.tokenizer

    Args:
        spec: Which model, in which type.
        location: As :func:`locate_model` found it, to avoid looking twice.

    Raises:
        UserError: If the files cannot be loaded, or one of the checks refuses the model.
    """
    location = location or locate_model(spec)
    check_files(location)
    tokenizer = load_tokenizer(location)
    model, warnings = _load_model(spec, location)
    model.name_or_path = model.config._name_or_path = str(location.folder)
    check_vocabulary(model, tokenizer, spec.name)
    return Backbone(model, tokenizer, location, tuple(warnings))


def load_tokenizer(location: ModelLocation) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer; one without a padding token pads with its end-of-text token.

    Raises:
        UserError: If the folder holds no tokenizer, or one that cannot be read.
    """
    from transformers import AutoTokenizer

    if location.gguf_file:
        _require_gguf()
    elif not location.has_tokenizer:
        raise UserError(
            f"model folder {location.folder} has no tokenizer (tokenizer.json): "
            "save one into it with tokenizer.save_pretrained(folder)"
        )
    options: dict[str, Any] = {"trust_remote_code": False, **_gguf_option(location)}
    with _opened(location, f"load the tokenizer in {location.folder}") as folder:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder), **options)
    tokenizer.name_or_path = str(location.folder)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UserError(f"the tokenizer in {location.folder} has no end-of-text token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load_model(spec: ModelSpec, location: ModelLocation) -> tuple[PreTrainedModel, list[str]]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    options: dict[str, Any] = {"trust_remote_code": False, **_gguf_option(location)}
    with _opened(location, f"load the model {spec.name}") as folder:
        tensors = None
        if not location.gguf_file:
            tensors = check_sizes(AutoConfig.from_pretrained(str(folder), **options), location)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=getattr(torch, spec.dtype),
            use_safetensors=None if location.gguf_file else True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused, by name
            **options,
        )
        model, info = loaded
        if location.gguf_file:
            _remove_quantization(model)
        model.config.use_cache = False
        warnings = check_loaded(model, info, tensors, spec.name)
        check_causal(model.eval(), spec.name)
        check_positions(model, spec.name)
    return model, warnings


@contextmanager
def _opened(location: ModelLocation, what: str) -> Iterator[Path]:
    """A folder of the model's files; whatever they break in the libraries is one user error.

    The libraries answer damaged or dishonest files with any kind of exception.
    """
    with location.opened() as folder:
        try:
            yield folder
        except UserError:
            raise
        except Exception as error:
            message = " ".join(str(error).replace(str(folder), str(location.folder)).split())
            reason = f"{type(error).__name__}: {message[:LONGEST_REASON]}"
            raise UserError(f"cannot {what}: {reason}") from error


def _gguf_option(location: ModelLocation) -> dict[str, str]:
    return {"gguf_file": location.gguf_file} if location.gguf_file else {}


def _require_gguf() -> None:
    if find_spec("gguf") is None:
        raise UserError('reading a .gguf model needs the extra: pip install "epi-bench[gguf]"')


def _remove_quantization(model: Any) -> None:
    """Remove quantisation metadata: the weights were dequantised on loading, and with it
    ``save_pretrained`` would refuse them.
    """
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False

"""Loading a causal language model with its tokenizer, from wherever it lies.

Accepted are ``tiny`` (shipped with the package), a local folder in the layout of ``transformers``,
a ``.gguf`` file, and a hub id. Weights are read from safetensors or GGUF only: pickled weights and
code from model repositories are refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epi_bench.config import ModelSpec
from epi_bench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HASHED_FILES = ("*.safetensors", "*.gguf", "config.json", "tokenizer*.json", "*.model", "*.jinja")
"""What determines a model's behaviour; hub metadata and read-me files do not count."""


@dataclass(frozen=True)
class ModelLocation:
    """Where a model's files are, before anything is loaded.

    Attributes:
        folder: Folder with its files.
        gguf_file: Name of the GGUF file in it, or ``None`` for safetensors.
        fingerprint: SHA-256 over the names and contents of the files that matter; the commit hash
            for a model from the hub.
    """

    folder: Path
    gguf_file: str | None
    fingerprint: str


@dataclass
class Backbone:
    """A model ready to be trained, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    location: ModelLocation


def tiny_folder() -> Path:
    """The folder of the embedded ``tiny`` model."""
    return Path(str(files("epi_bench") / "data" / "tiny"))


def locate_model(spec: ModelSpec) -> ModelLocation:
    """Find a model's files, downloading them if the name is a hub id.

    Raises:
        UserError: If nothing usable is there; the message says what is missing.
    """
    if spec.name == "tiny":
        return _local_folder(tiny_folder())
    path = Path(spec.name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"model file {path} does not exist")
        return ModelLocation(path.parent, path.name, _hash_files([path]))
    if path.is_dir():
        return _local_folder(path)
    if path.is_absolute() or spec.name.startswith((".", "~")) or spec.name.count("/") > 1:
        raise UserError(f"model folder {path} does not exist")
    return _from_hub(spec)


def load_backbone(spec: ModelSpec, location: ModelLocation | None = None) -> Backbone:
    """Load model and tokenizer; the model is in evaluation mode, on the CPU.

    Args:
        spec: Which model, in which type.
        location: As :func:`locate_model` found it, to avoid looking twice.

    Raises:
        UserError: If files are missing or the architecture cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    location = location or locate_model(spec)
    tokenizer = load_tokenizer(location)
    options: dict[str, Any] = {"dtype": getattr(torch, spec.dtype), "trust_remote_code": False}
    if location.gguf_file:
        _require_gguf()
        options["gguf_file"] = location.gguf_file
    else:
        options["use_safetensors"] = True
    try:
        model = AutoModelForCausalLM.from_pretrained(str(location.folder), **options)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot load the model {spec.name}: {_first_line(error)}") from error
    if location.gguf_file:
        _forget_quantization(model)
    model.config.use_cache = False
    return Backbone(model.eval(), tokenizer, location)


def load_tokenizer(location: ModelLocation) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer; one without a padding token pads with its end-of-text token.

    Raises:
        UserError: If the folder holds no tokenizer.
    """
    from transformers import AutoTokenizer

    options = {"gguf_file": location.gguf_file} if location.gguf_file else {}
    if location.gguf_file:
        _require_gguf()
    elif not any(location.folder.glob("tokenizer*")) and not any(location.folder.glob("*.model")):
        raise UserError(
            f"model folder {location.folder} has no tokenizer (tokenizer.json): "
            "save one into it with tokenizer.save_pretrained(folder)"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(location.folder), **options)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"cannot load the tokenizer in {location.folder}: {_first_line(error)}"
        ) from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UserError(f"the tokenizer in {location.folder} has no end-of-text token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def general_text(location: ModelLocation) -> str:
    """Held-out general text on which retention is measured: the model's own, else the default."""
    own = location.folder / "general_text.txt"
    source = own if own.is_file() else files("epi_bench") / "data" / "general_text.txt"
    return source.read_text(encoding="utf-8")


def _local_folder(folder: Path) -> ModelLocation:
    if not (folder / "config.json").is_file():
        raise UserError(f"model folder {folder} has no config.json: it holds no transformers model")
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"model folder {folder} has no .safetensors weights: "
            "load it once with transformers and save it again with save_pretrained"
        )
    matches = {path for pattern in HASHED_FILES for path in folder.glob(pattern)}
    return ModelLocation(folder, None, _hash_files(sorted(matches)))


def _from_hub(spec: ModelSpec) -> ModelLocation:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            spec.name, revision=spec.revision, allow_patterns=[*HASHED_FILES, "*.json"]
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"model {spec.name!r} is neither a local folder nor reachable on the hub "
            f"({type(error).__name__}): check the name, log in for gated models, or give a folder"
        ) from error
    return ModelLocation(Path(folder), None, Path(folder).name)


def _hash_files(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _require_gguf() -> None:
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise UserError('reading a .gguf model needs the extra: pip install "epi-bench[gguf]"')


def _forget_quantization(model: Any) -> None:
    """The weights were expanded on loading; leftovers of the quantised file would block saving."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"

"""Where a model's files lie, which of them can change its numbers, and a folder of just those.

A model is loaded from a folder that holds the counted files and nothing else
(:meth:`ModelLocation.opened`). So no file can change a run without changing its identity: one that
is not counted cannot be read.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epi_bench.errors import UserError
from epi_bench.files import shipped_file
from epi_bench.model.content_hash import content_hash
from epi_bench.spec.run_spec import ModelSpec

GENERAL_TEXT = "general_text.txt"
"""Held-out text that a model folder may bring; retention is measured on it."""

MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    GENERAL_TEXT,
)

TOKENIZER_FILES = (
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "*vocab*.json",
    "*vocab*.txt",
    "merges.txt",
    "dict.txt",
    "bpe.codes",
    "tekken.json",
    "*.model",
    "*.model.v*",
    "*.spm",
    "*.tiktoken",
    "chat_template.json",
    "*.jinja",
    "additional_chat_templates/*.jinja",
)
"""The names that the tokenizers of transformers read."""

COUNTED_FILES = (*MODEL_FILES, *TOKENIZER_FILES)
"""What determines a model's behaviour; hub metadata and read-me files do not count."""


@dataclass(frozen=True)
class ModelLocation:
    """Where a model's files are, before anything is loaded.

    Attributes:
        folder: Folder with its files.
        gguf_file: Name of the GGUF file in it, or ``None`` for safetensors.
        fingerprint: SHA-256 over the names and contents of ``files``; the commit hash for a model
            from the hub.
        files: The files that count; nothing else in ``folder`` is read.
    """

    folder: Path
    gguf_file: str | None
    fingerprint: str
    files: tuple[Path, ...]

    @contextmanager
    def opened(self) -> Iterator[Path]:
        """A temporary folder with the counted files alone, to load from."""
        with tempfile.TemporaryDirectory(
            prefix="epi-bench-model-", ignore_cleanup_errors=True
        ) as temporary:
            view = Path(temporary)
            for path in self.files:
                place = view / path.relative_to(self.folder)
                place.parent.mkdir(exist_ok=True)
                _link(path, place)
            yield view

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is a file that a tokenizer could be read from."""
        return any(
            path.relative_to(self.folder).match(pattern)
            for path in self.files
            for pattern in TOKENIZER_FILES
            if not pattern.endswith(".jinja")
        )


def tiny_folder() -> Path:
    """The folder of the embedded ``tiny`` model."""
    return shipped_file("tiny")


def locate_model(spec: ModelSpec) -> ModelLocation:
    """Find a model's files, downloading them if the name is a hub id.

    Raises:
        UserError: If nothing usable is there; the message says what is missing.
    """
    if spec.name == "tiny":
        return _local_folder(tiny_folder())
    if not spec.name:
        raise UserError("the model's name is empty: give a folder, a .gguf file or a hub id")
    path = Path(spec.name).expanduser()
    try:
        if path.suffix == ".gguf":
            return _gguf_file(path)
        if path.is_dir():
            return _local_folder(path)
    except OSError as error:
        raise UserError(f"cannot read model {path}: {error.strerror or error}") from error
    if path.is_absolute() or spec.name.startswith((".", "~")) or spec.name.count("/") > 1:
        raise UserError(f"model folder {path} does not exist")
    return _from_hub(spec)


def general_text(location: ModelLocation) -> str:
    """Held-out text on which retention is measured.

    It is read from ``general_text.txt`` beside the model, or else is the shipped text.

    Raises:
        UserError: If the model's own is empty or no UTF-8.
    """
    own = location.folder / GENERAL_TEXT
    if own not in location.files:
        return shipped_file(GENERAL_TEXT).read_text(encoding="utf-8")
    try:
        text = own.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {own}: {error}; it must be UTF-8 text") from error
    if not text.strip():
        raise UserError(f"{own} is empty: write some text into it, or remove it for the default")
    return text


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model folder.

    Raises:
        UserError: If it cannot be read or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"cannot read {path} ({reason}): copy the model again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object: copy the model again")
    return value


def weight_files(location: ModelLocation) -> list[Path]:
    """The safetensors files that transformers will read, one or the shards of an index.

    Raises:
        UserError: If there is neither ``model.safetensors`` nor a complete set of shards.
    """
    single = location.folder / "model.safetensors"
    if single in location.files:
        return [single]
    index = location.folder / "model.safetensors.index.json"
    if index not in location.files:
        found = next(path.name for path in location.files if path.suffix == ".safetensors")
        raise UserError(
            f"model folder {location.folder} has no model.safetensors ({found} is not read): "
            "load it once with transformers and save it again with save_pretrained"
        )
    names = read_json_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{index} has no table weight_map: copy the model again")
    shards = sorted({location.folder / name for name in names.values()})
    missing = [shard for shard in shards if shard not in location.files]
    if missing or not shards:
        raise UserError(
            f"model folder {location.folder} lacks weights that its index names"
            f"{': ' + missing[0].name if missing else ''}: copy the model again"
        )
    return shards


def _local_folder(folder: Path) -> ModelLocation:
    counted = _counted(folder)
    return ModelLocation(folder, None, content_hash(folder, counted), counted)


def _counted(folder: Path) -> tuple[Path, ...]:
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"model folder {folder} holds an adapter (adapter_config.json): merge it into its base "
            "model with peft's merge_and_unload, and save the whole model"
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"model folder {folder} has no config.json: it holds no transformers model")
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"model folder {folder} has no .safetensors weights: "
            "load it once with transformers and save it again with save_pretrained"
        )
    matches = {path for pattern in COUNTED_FILES for path in folder.glob(pattern)}
    return tuple(sorted(path for path in matches if path.is_file()))


def _gguf_file(path: Path) -> ModelLocation:
    if not path.is_file():
        raise UserError(f"model file {path} does not exist")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UserError(f"model file {path} is not a GGUF file: copy it again")
    text = path.parent / GENERAL_TEXT
    counted = (path, text) if text.is_file() else (path,)
    return ModelLocation(path.parent, path.name, content_hash(path.parent, counted), counted)


def _from_hub(spec: ModelSpec) -> ModelLocation:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(
                spec.name, revision=spec.revision, allow_patterns=[*COUNTED_FILES, "*.json"]
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"model {spec.name!r} is neither a local folder nor reachable on the hub "
            f"({type(error).__name__}): check the name, log in for gated models, or give a folder"
        ) from error
    return ModelLocation(folder, None, folder.name, _counted(folder))


def _link(source: Path, place: Path) -> None:
    try:
        place.symlink_to(source.resolve())
    except OSError:  # Windows permits links to administrators only
        shutil.copyfile(source, place)

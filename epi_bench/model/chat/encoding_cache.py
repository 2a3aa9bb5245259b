"""Encoded training examples, kept between runs.

Encoding a large data set takes seconds to minutes, and every strategy and seed of a comparison
needs the same tokens. They are kept under the hash of everything that determines them: the
tokenizer's content, the chat template and its variables, the options, the conversations, and the
code of this package. So an entry never has to be declared stale; what changes makes another entry.

An entry is one safetensors file, written whole or not at all, with a checksum of its content. A
damaged one is made again, and a folder that cannot be written costs time but no run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epi_bench.errors import UserError
from epi_bench.files import cache_folder, write_atomically
from epi_bench.model.chat.chat_encoder import ChatEncoder
from epi_bench.model.chat.encoded_example import EncodedExample, EncodingReport
from epi_bench.task.example import Message

if TYPE_CHECKING:
    import numpy as np

SMALLEST_CACHED = 1000
"""Data sets with fewer conversations are encoded each time: that takes about a second."""

MAX_CACHE_BYTES = 2 * 1024**3
"""Above this size the entries that were not used for longest are removed."""


@dataclass
class EncodingCache:
    """Encodes training conversations, or takes them from where they were encoded before.

    Attributes:
        folder: Holds the entries; ``None`` encodes each time.
        warnings: What went wrong with the cache; it never stops a run.
    """

    folder: Path | None = field(default_factory=lambda: cache_folder("encoded"))
    warnings: list[str] = field(default_factory=list)

    def training(
        self,
        encoder: ChatEncoder,
        conversations: Sequence[Sequence[Message]],
        on_progress: Callable[[int], None] | None = None,
    ) -> tuple[list[EncodedExample], EncodingReport]:
        """What :meth:`ChatEncoder.training` returns, to the last token.

        Args:
            encoder: Of the model's tokenizer.
            conversations: What to encode.
            on_progress: Called with the number of conversations encoded so far.
        """
        if self.folder is None or len(conversations) < SMALLEST_CACHED:
            return encoder.training(conversations, on_progress)
        path = self.folder / f"{encoding_key(encoder, conversations)}.safetensors"
        found = self._read(path)
        if found is None:
            found = encoder.training(conversations, on_progress)
            self._write(path, *found)
        return found

    def _read(self, path: Path) -> tuple[list[EncodedExample], EncodingReport] | None:
        from safetensors import SafetensorError

        try:
            content = path.read_bytes()
            os.utime(path)  # used just now: not the next to be removed
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(f"{path} cannot be read ({error.strerror or error})")
            return None
        try:
            return _unpack(content)
        except (SafetensorError, KeyError, ValueError) as error:
            self._warn(f"{path} is damaged ({error}): made again")
            return None

    def _write(self, path: Path, examples: list[EncodedExample], report: EncodingReport) -> None:
        try:
            write_atomically(path, _pack(examples, report))
            _remove_oldest(path.parent, MAX_CACHE_BYTES)
        except UserError as error:
            self._warn(f"{path.parent} cannot be written ({error})")
        except OSError as error:
            self._warn(f"{path.parent} cannot be written ({error.strerror or error})")

    def _warn(self, problem: str) -> None:
        self.warnings.append(f"cache of encoded examples: {problem}")


def encoding_key(encoder: ChatEncoder, conversations: Sequence[Sequence[Message]]) -> str:
    """Hash of all that determines the encoded examples: 64 hexadecimal digits."""
    tokenizer: Any = encoder.tokenizer
    determining = {
        "code": _code_hash(),
        "libraries": [version(name) for name in ("tokenizers", "transformers", "jinja2")],
        "tokenizer_class": type(tokenizer).__name__,
        "prefix": encoder.prefix,
        "special_tokens": {k: str(v) for k, v in tokenizer.special_tokens_map.items()},
        "template": encoder.template,
        "template_arguments": encoder.template_arguments,
        "max_length": encoder.max_length,
        "mask_history": encoder.mask_history,
    }
    digest = hashlib.sha256(json.dumps(determining, sort_keys=True, default=str).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for conversation in conversations:
        turns = [[message["role"], message["content"]] for message in conversation]
        digest.update(json.dumps(turns).encode() + b"\n")
    return digest.hexdigest()


def _pack(examples: Sequence[EncodedExample], report: EncodingReport) -> bytes:
    import numpy as np
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray] = {
        "lengths": np.array([len(example) for example in examples], dtype=np.int32),
        "input_ids": np.array([i for e in examples for i in e.input_ids], dtype=np.int32),
        "supervised": np.array([s for e in examples for s in e.supervised], dtype=np.uint8),
        "counts": np.array([report.encoded, report.truncated, report.unsupervised], np.int64),
    }
    return bytes(save({**arrays, "checksum": _checksum(arrays)}))


def _unpack(content: bytes) -> tuple[list[EncodedExample], EncodingReport]:
    """The examples of an entry.

    Raises:
        ValueError, KeyError, SafetensorError: If it is damaged.
    """
    from safetensors.numpy import load

    arrays = load(content)
    checksum = arrays.pop("checksum")
    if checksum.tobytes() != _checksum(arrays).tobytes():
        raise ValueError("its checksum does not fit")
    ids, supervised = arrays["input_ids"].tolist(), arrays["supervised"].astype(bool).tolist()
    examples = []
    start = 0
    for length in arrays["lengths"].tolist():
        end = start + length
        examples.append(EncodedExample(tuple(ids[start:end]), tuple(supervised[start:end])))
        start = end
    return examples, EncodingReport(*arrays["counts"].tolist())


def _checksum(arrays: dict[str, np.ndarray]) -> np.ndarray:
    import numpy as np

    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + arrays[name].tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8)


def _remove_oldest(folder: Path, limit: int) -> None:
    """Remove the entries that were not used for longest, until the rest fits ``limit`` bytes."""
    entries = []
    for path in folder.glob("*.safetensors"):
        try:
            status = path.stat()
        except FileNotFoundError:  # another process was faster
            continue
        entries.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= size


@cache
def _code_hash() -> str:
    """Of all modules beside this one: no list could be forgotten to be extended."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()

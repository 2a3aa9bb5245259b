"""Verdicts on disk, so that no question is paid for twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epi_bench.files import write_atomically


def content_key(request: Mapping[str, Any]) -> str:
    """SHA-256 of a request body: model, messages, temperature and longest answer."""
    content = json.dumps(request, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


class VerdictCache:
    """One small JSON file a verdict, written whole or not at all.

    It keeps the verdict and the judge's name; the question is only in the hash.

    Args:
        folder: Made when it is needed; ``None`` keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, key: str) -> str | None:
        """The verdict kept under a key; ``None`` if there is none or its file is damaged."""
        if self.folder is None:
            return None
        try:
            content = json.loads(_file_of(self.folder, key).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None  # it is asked for again and the file is replaced
        verdict = content.get("verdict") if isinstance(content, dict) else None
        return verdict if isinstance(verdict, str) else None

    def put(self, key: str, model: str, verdict: str) -> None:
        """Keep a verdict.

        Raises:
            UserError: If it cannot be written.
        """
        if self.folder is None:
            return
        content = json.dumps({"model": model, "verdict": verdict}, ensure_ascii=False)
        write_atomically(_file_of(self.folder, key), content + "\n")


def _file_of(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}.json"

"""Verdicts on disk, so that no question is paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epi_bench.files import write_atomically

CACHE_VARIABLE = "EPI_BENCH_CACHE"
"""Environment variable with the folder for caches, instead of the user's cache folder."""


def cache_folder() -> Path:
    """Where epi-bench caches: ``EPI_BENCH_CACHE``, else a folder where the system keeps caches."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "epi-bench"
    local, shared = os.environ.get("LOCALAPPDATA"), os.environ.get("XDG_CACHE_HOME")
    if sys.platform == "win32" and local:
        return Path(local) / "epi-bench" / "Cache"
    return (Path(shared) if shared else Path.home() / ".cache") / "epi-bench"


def content_key(request: Mapping[str, Any]) -> str:
    """SHA-256 of a request body: model, messages, temperature and longest answer."""
    content = json.dumps(request, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


class VerdictCache:
    """One small JSON file a verdict, written whole or not at all.

    It keeps the verdict and the judge's name; the question is only in the hash.

    Args:
        folder: Made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> str | None:
        """The verdict kept under a key; ``None`` if there is none or its file is damaged."""
        try:
            content = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None  # it is asked for again and the file is replaced
        verdict = content.get("verdict") if isinstance(content, dict) else None
        return verdict if isinstance(verdict, str) else None

    def put(self, key: str, model: str, verdict: str) -> None:
        """Keep a verdict.

        Raises:
            UserError: If it cannot be written.
        """
        content = json.dumps({"model": model, "verdict": verdict}, ensure_ascii=False)
        write_atomically(self._path(key), content + "\n")

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

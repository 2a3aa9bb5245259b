"""Facts about the machine and the installation that made a record."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from epi_bench.files import shipped_file

PACKAGES = (
    "epi-bench",
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "peft",
    "tokenizers",
    "safetensors",
    "numpy",
)
"""Packages whose version can change a run's numbers."""


def package_versions() -> dict[str, str]:
    """Installed versions of :data:`PACKAGES`."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def git_state() -> tuple[str | None, bool | None]:
    """Commit of the checkout that epi-bench runs from, and whether files of it are changed.

    Both are ``None`` for an installation that is not a checkout. Published results and run folders
    do not count as changes.
    """
    folder = shipped_file().resolve().parents[1]
    if not (folder / ".git").exists():
        return None, None
    sha = _git(folder, "rev-parse", "HEAD")
    status = _git(
        folder, "status", "--porcelain", "--", ".", ":(exclude)leaderboards", ":(exclude)runs"
    )
    return sha or None, bool(status) if status is not None else None


def processor_name() -> str:
    """The processor as the system calls it."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None

"""Facts about the machine and the installation that made a record."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import JsonValue

from epi_bench.files import shipped_file
from epi_bench.results.record.circumstances import Environment

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
    "lm-eval",
    "avalanche-lib",
)
"""Packages whose version can change a run's numbers; the last two those of some runs."""


EXCLUDED = tuple(f":(exclude){folder}" for folder in ("leaderboards", "results", "runs"))
"""Folders at the top of a checkout in which a changed file changes no run."""


def current_environment(
    device: str,
    processes: int,
    execution: Mapping[str, JsonValue],
    started_at: datetime,
    resumed: int = 0,
) -> Environment:
    """Where and with what the run at hand is made.

    Args:
        device: What is trained on, as torch names it: ``cpu``, ``cuda:0``.
        processes: Processes that train together.
        execution: What of the process counts in the run's identity.
        started_at: When the run began, with time zone.
        resumed: How often it went on from a checkpoint.
    """
    import torch

    sha, dirty = git_state()
    return Environment(
        packages=package_versions(),
        python=platform.python_version(),
        platform=platform.platform(),
        processor=processor_name(),
        device=torch.cuda.get_device_name() if device.startswith("cuda") else device,
        processes=processes,
        threads=torch.get_num_threads(),
        git_sha=sha,
        git_dirty=dirty,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        matmul_precision=torch.get_float32_matmul_precision(),
        execution=dict(execution),
        started_at=started_at.isoformat(timespec="seconds"),
        resumed=resumed,
    )


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
    status = _git(folder, "status", "--porcelain", "--", ".", *EXCLUDED)
    return sha or None, bool(status) if status is not None else None


def knows_commit(folder: Path, commit: str) -> bool | None:
    """Whether the git repository that a folder lies in has a commit.

    Args:
        folder: Need not be there yet.
        commit: As hexadecimal digits.

    Returns:
        ``None`` if the folder lies in no repository, or git is not installed.
    """
    while not folder.is_dir():
        folder = folder.parent
    if _git(folder, "rev-parse", "--git-dir") is None:
        return None
    if not re.fullmatch("[0-9a-f]{7,64}", commit):
        return False
    return _git(folder, "cat-file", "-e", f"{commit}^{{commit}}") is not None


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

"""When a run saves what it needs to go on, and how many checkpoints are kept."""

from __future__ import annotations

import re
from dataclasses import dataclass

from epi_bench.errors import UserError

DEFAULT_EVERY = "5m"
"""Time between two checkpoints within an experience."""

SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class CheckpointSettings:
    """When a run saves what it needs to go on; changes no number.

    A run saves at the end of each experience, within one whenever it is due, and while it scores.

    Attributes:
        every_steps: Optimizer steps between two checkpoints within an experience, or ``None``.
        every_seconds: Seconds between two, where ``every_steps`` is ``None``; 0 saves nothing.
        kept: Checkpoints that are kept beside the newest, until the record is written.
    """

    every_steps: int | None = None
    every_seconds: float = 300.0
    kept: int = 0

    @property
    def is_on(self) -> bool:
        """Whether anything is saved."""
        return self.every_steps is not None or self.every_seconds > 0


OFF = CheckpointSettings(every_seconds=0.0)
"""Nothing is saved."""


def checkpoint_settings(every: str = DEFAULT_EVERY, kept: int = 0) -> CheckpointSettings:
    """The settings that a user writes.

    Args:
        every: Steps (``200``) or a time (``30s``, ``5m``, ``1h``); ``0`` saves nothing.
        kept: Checkpoints to keep beside the newest, at least 0.

    Raises:
        UserError: If it is neither, or less than nothing is to be kept.

    >>> checkpoint_settings("200")
    CheckpointSettings(every_steps=200, every_seconds=0.0, kept=0)
    >>> checkpoint_settings("90s").every_seconds
    90.0
    """
    if kept < 0:
        raise UserError(f"keep_checkpoints={kept} must be at least 0", setting="keep_checkpoints")
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smh]?)", str(every).strip())
    if found is None or (not found[2] and "." in found[1]):
        raise UserError(
            f"checkpoint_every={every!r} is neither steps nor a time: write 200 for every 200 "
            "steps, 5m for every five minutes (s, m or h), or 0 for no checkpoints",
            setting="checkpoint_every",
        )
    number = float(found[1])
    if found[2]:
        return CheckpointSettings(None, number * SECONDS[found[2]], kept)
    return CheckpointSettings(int(number) or None, 0.0, kept)

"""Where the rows of a data set are published, and under which names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Split = Literal["train", "test"]

SPLITS: tuple[Split, ...] = get_args(Split)
"""The two splits of every task: what a run trains on, and what it is scored on."""


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where the rows of a published data set come from.

    Attributes:
        hub_id: Name on the Hugging Face hub.
        config: Hub configuration, or ``None``.
        revision: Branch, tag or commit on the hub that the adapter was written for.
        splits: Our split -> the hub's split that feeds it. Where both name the same hub split, the
            adapter divides it itself.
        files: Our split -> local file names to look for, relative to ``--data-dir``, best first.
    """

    hub_id: str
    config: str | None
    revision: str
    splits: Mapping[Split, str]
    files: Mapping[Split, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Location:
    """Where a split's rows lie.

    Attributes:
        kind: A JSON file, a local copy of a hub repository, or the hub.
        place: Path or hub id.
        split: The split's name there; empty for a file.
    """

    kind: Literal["file", "folder", "hub"]
    place: str
    split: str = ""

    def __str__(self) -> str:
        return f"{self.place} ({self.split})" if self.split else self.place

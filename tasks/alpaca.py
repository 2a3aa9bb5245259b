"""Alpaca: general instructions (Taori et al. 2023)."""

from __future__ import annotations

from epi_bench import (
    DataSource,
    InstructionTask,
    TaskCard,
    register_task,
)

_FILES = ("alpaca/alpaca_data.json", "alpaca/train.jsonl", "alpaca/train_5k.jsonl")


@register_task("alpaca")
class Alpaca(InstructionTask):
    """General instructions with one reference answer each.

    Published as one split: a tenth of the prompts is for testing, chosen by their hash.
    """

    card = TaskCard(
        summary="General instructions with a reference answer",
        ability="instructions",
        scoring="generate",
        metric="rouge_l",
        licence="CC BY-NC 4.0",
        max_new_tokens=320,
        version=2,
        source=DataSource(
            hub_id="tatsu-lab/alpaca",
            config=None,
            revision="dce01c9b08f87459cf36a430d809084718273017",
            splits={"train": "train", "test": "train"},
            files={"train": _FILES, "test": _FILES},
        ),
    )

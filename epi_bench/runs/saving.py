"""The trained model as a folder that can be loaded again, by transformers and as a run's model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from epi_bench.model.location import GENERAL_TEXT, general_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from epi_bench.model.load import Backbone


def save_model(model: PreTrainedModel, backbone: Backbone, folder: Path) -> None:
    """Save a trained model with its tokenizer and its general text.

    Args:
        model: As it is to be loaded again.
        backbone: What it was trained from.
        folder: Where to; created if it is not there.
    """
    model.config.use_cache = True  # training turns it off, generation wants it
    model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    # otherwise a later run would measure retention on another text
    (folder / GENERAL_TEXT).write_text(general_text(backbone.location), encoding="utf-8")

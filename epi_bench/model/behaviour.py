"""Whether a model reads a text as a causal language model does, found out by asking it.

Two short texts go through the model: they tell whether it sees the tokens that it has to predict,
and from which number it counts positions.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from epi_bench.errors import UserError
from epi_bench.model.limits import embedding_rows, position_limit

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

PROBE_LENGTH = 16
"""Tokens of each of the two texts."""


def check_causal(model: PreTrainedModel, name: str) -> None:
    """Refuse a model whose predictions depend on the tokens they predict.

    Two texts that differ in their second half alone must have the same logits in the first.

    Raises:
        UserError: If they have not, as with an encoder such as BERT.
    """
    shared = _probe_length(model) // 2
    if not shared:
        return
    logits = _probe_logits(model)[:, :shared]
    if _differ(model, logits[0], logits[1]):
        raise UserError(
            f"{name} ({type(model).__name__}) sees the tokens that it has to predict, as an "
            "encoder does: give a causal language model"
        )


def check_positions(model: PreTrainedModel, name: str) -> None:
    """Refuse a model that counts the positions of a text from another number than 0.

    Prompts of different lengths are scored together and their positions given, from 0; training
    leaves them to the model. Both must mean the same.

    Raises:
        UserError: If they do not, as with RoBERTa, which counts from its padding token's number.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return
    import torch

    positions = torch.arange(_probe_length(model), device=model.device).expand(2, -1)
    if _differ(model, _probe_logits(model), _probe_logits(model, position_ids=positions)):
        raise UserError(
            f"{name} ({type(model).__name__}) does not count the positions of a text from 0, so "
            "its scores and answers would be wrong: give another model"
        )


def _probe_length(model: PreTrainedModel) -> int:
    return min(PROBE_LENGTH, position_limit(model.config) or PROBE_LENGTH)


def _probe_logits(model: PreTrainedModel, **inputs: Tensor) -> Tensor:
    """Logits of two texts from all over the vocabulary that differ in their second half."""
    import torch

    rows, length = embedding_rows(model), _probe_length(model)
    texts = torch.arange(2 * length).mul(max(1, rows // (2 * length))).remainder(rows)
    texts = texts.view(2, length)
    texts[1, : length // 2] = texts[0, : length // 2]
    with torch.no_grad():
        logits: Tensor = model(input_ids=texts.to(model.device), **inputs).logits
    return logits.float()


def _differ(model: PreTrainedModel, first: Tensor, second: Tensor) -> bool:
    """Whether logits differ by more than rounding.

    That may differ: a mixture of experts computes each expert's tokens together.
    """
    import torch

    allowed = 1e-4 if model.dtype == torch.float32 else 2e-2
    largest = max(float(first.abs().max()), float(second.abs().max()))
    return float((first - second).abs().max()) > allowed * largest

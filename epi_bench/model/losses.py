"""The training loss: next-token cross-entropy over supervised tokens, and balanced experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from epi_bench.errors import TrainingFailedError
from epi_bench.model.batching import IGNORED_LABEL

if TYPE_CHECKING:
    from torch import Tensor, nn


def summed_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """Cross-entropy summed over the batch's supervised tokens, and their number.

    Dividing the sum by the number of tokens in the whole optimizer step (all micro-batches, all
    processes) makes the result independent of how the step was cut into micro-batches; for a
    single batch it equals ``model(**batch).loss`` of transformers.

    Args:
        model: A causal language model of transformers.
        batch: ``input_ids``, ``attention_mask``, ``labels``, each (batch, length).

    Returns:
        The sum in nats, with its graph, and the number of tokens it runs over.
    """
    return _cross_entropy(_outputs(model, batch).logits, batch["labels"])


def training_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What a batch adds to the loss to minimise, summed over its supervised tokens.

    Beside the cross-entropy that is the load-balancing loss of a mixture of experts, where the
    model's configuration asks for it (``output_router_logits``), times its coefficient there
    (``router_aux_loss_coef``). Divided by the number of tokens, the sum of a single batch equals
    ``model(**batch).loss`` of transformers; several micro-batches share the load-balancing loss by
    their tokens.

    Args:
        model: A causal language model of transformers, or its wrapper for several processes.
        batch: ``input_ids``, ``attention_mask``, ``labels``, each (batch, length).

    Returns:
        The sum in nats, with its graph, and the cross-entropy in it.
    """
    outputs = _outputs(model, batch)
    summed, tokens = _cross_entropy(outputs.logits, batch["labels"])
    balance = getattr(outputs, "aux_loss", None)
    if balance is None or isinstance(balance, int):  # 0 where no layer has experts
        return summed, summed
    return summed + tokens * _balance_coefficient(model) * balance.to(summed.device), summed


def mean_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the batch's supervised tokens, in nats, with its graph."""
    total, tokens = summed_loss(model, batch)
    return total / max(tokens, 1)


def _outputs(model: nn.Module, batch: Mapping[str, Tensor]) -> Any:
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    from torch.nn.functional import cross_entropy

    labels = labels[:, 1:]
    predicting = labels != IGNORED_LABEL
    total = cross_entropy(logits[:, :-1][predicting].float(), labels[predicting], reduction="sum")
    return total, int(predicting.sum())


def _balance_coefficient(model: Any) -> float:
    """What the model itself multiplies its load-balancing loss by."""
    unwrapped = getattr(model, "module", model)
    for owner in (unwrapped, unwrapped.config.get_text_config()):
        for name in ("router_aux_loss_coef", "aux_loss_coef"):
            coefficient = getattr(owner, name, None)
            if coefficient is not None:
                return float(coefficient)
    raise TrainingFailedError(
        "the model's configuration asks for a load-balancing loss (output_router_logits) and "
        "names no router_aux_loss_coef: set one, or output_router_logits to false"
    )

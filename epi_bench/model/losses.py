"""The training loss: next-token cross-entropy over supervised tokens, and balanced experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from epi_bench.errors import TrainingFailedError
from epi_bench.model.batching import IGNORED_LABEL

if TYPE_CHECKING:
    from torch import Tensor, nn


class TokenHooks(Protocol):
    """Shapes the loss of a batch, with the logits that have been computed for it anyway."""

    def token_weights(self, batch: Mapping[str, Tensor], logits: Tensor) -> Tensor | None:
        """Factors (batch, length - 1) of the tokens' losses, or ``None`` for 1."""

    def batch_penalty(self, batch: Mapping[str, Tensor], logits: Tensor) -> Tensor | None:
        """A scalar that is added to the sum of the tokens' losses, or ``None``."""


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


def training_loss(
    model: nn.Module, batch: Mapping[str, Tensor], hooks: TokenHooks | None = None
) -> tuple[Tensor, Tensor]:
    """What a batch adds to the loss to minimise, summed over its supervised tokens.

    Beside the cross-entropy that is the load-balancing loss of a mixture of experts, where the
    model's configuration asks for it (``output_router_logits``), times its coefficient there
    (``router_aux_loss_coef``). Divided by the number of tokens, the sum of a single batch equals
    ``model(**batch).loss`` of transformers; several micro-batches share the load-balancing loss by
    their tokens.

    A token's loss is multiplied by its example's weight and by its own, where there are any. The
    number of tokens that the sum is divided by stays the same: weights below 1 make the loss
    smaller.

    Args:
        model: A causal language model of transformers, or its wrapper for several processes.
        batch: ``input_ids``, ``attention_mask``, ``labels``, each (batch, length); where examples
            have weights, ``weight`` (batch).
        hooks: Weigh the tokens and add to the sum.

    Returns:
        The sum in nats, with its graph, and the plain cross-entropy.

    Raises:
        TrainingFailedError: If a hook gives a tensor of another shape than it should.
    """
    outputs = _outputs(model, batch)
    weights = _weights(batch, outputs.logits, hooks)
    if weights is None:
        summed, tokens = _cross_entropy(outputs.logits, batch["labels"])
        objective = summed
    else:
        losses, places = _token_losses(outputs.logits, batch["labels"])
        summed, tokens = losses.detach().sum(), len(losses)
        objective = (losses * weights[places]).sum()
    if hooks is not None:
        penalty = hooks.batch_penalty(batch, outputs.logits)
        if penalty is not None:
            _check_shape("batch_penalty", penalty, ())
            objective = objective + penalty
    balance = getattr(outputs, "aux_loss", None)
    if balance is None or isinstance(balance, int):  # 0 where no layer has experts
        return objective, summed
    return objective + tokens * _balance_coefficient(model) * balance.to(summed.device), summed


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


def _weights(
    batch: Mapping[str, Tensor], logits: Tensor, hooks: TokenHooks | None
) -> Tensor | None:
    """What each token's loss is multiplied by (batch, length - 1); ``None`` if all by 1."""
    import torch

    of_tokens = None
    if hooks is not None:
        with torch.no_grad():
            of_tokens = hooks.token_weights(batch, logits.detach())
    if of_tokens is not None:
        _check_shape("token_weights", of_tokens, tuple(batch["labels"][:, 1:].shape))
        of_tokens = of_tokens.detach().float()
    if "weight" not in batch:
        return of_tokens
    of_examples = batch["weight"][:, None]
    if of_tokens is None:
        return of_examples.expand(batch["labels"][:, 1:].shape)
    return of_examples * of_tokens


def _token_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each supervised token in a row, and where they are (batch, length - 1)."""
    from torch.nn.functional import cross_entropy

    labels = labels[:, 1:]
    predicting = labels != IGNORED_LABEL
    kept = logits[:, :-1][predicting].float()
    return cross_entropy(kept, labels[predicting], reduction="none"), predicting


def _check_shape(hook: str, value: Tensor, shape: tuple[int, ...]) -> None:
    found = tuple(getattr(value, "shape", ())) if hasattr(value, "shape") else None
    if found != shape:
        given = type(value).__name__ if found is None else f"a tensor of shape {found}"
        raise TrainingFailedError(f"{hook} must return a tensor of shape {shape}, not {given}")


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

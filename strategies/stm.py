"""STM: do not train the tokens that surprise the model most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from epi_bench import (
    EncodedExample,
    Experience,
    Strategy,
    TradeOff,
    UserError,
    register_strategy,
    token_losses,
)


@register_strategy("stm")
class SelectiveTokenMasking(Strategy):
    """Tokens of high perplexity carry no loss (Wu et al. 2025, arXiv 2501.14315).

    Before each experience the model as it is predicts its training examples; a supervised token
    whose perplexity ``exp(nll)`` is above a threshold is read but not trained. The authors'
    threshold of 2.5 masks 20 to 24 % of the tokens of their models and data, and they report that
    it keeps nearly all of what was known. A model that does not know the format yet finds nearly
    every token surprising, so by default a share of the tokens is masked.

    The last supervised token of an example, where an answer ends, is always trained; a model that
    does not stop is scored wrong. An example with nothing else left is left out.

    The loss is the mean over the tokens that are left. No other cost than a forward pass a
    training example.

    Args:
        share: Of the supervised tokens that is masked, in [0, 1).
        threshold: Perplexity above which a token is masked, at least 1, instead of a share; 0 goes
            by the share.
    """

    family = "data"
    bytes_per_parameter = "0"
    trade_off = TradeOff("share", (0.05, 0.1, 0.2, 0.4))
    evidence = (
        "Its authors report that other abilities are kept nearly whole for chat models trained on "
        "code or mathematics."
    )

    def __init__(self, share: float = 0.2, threshold: float = 0.0) -> None:
        if not 0 <= share < 1:
            raise UserError(f"stm: share={share} must lie in [0, 1)")
        if threshold and not threshold >= 1:
            raise UserError(f"stm: threshold={threshold} must be at least 1, or 0 for the share")
        self.share = share
        self.threshold = threshold
        self._masked = 0.0
        self._dropped = 0

    def training_examples(self, experience: Experience) -> Sequence[EncodedExample]:
        """The examples without their most surprising tokens."""
        losses = token_losses(self.context, self.context.model, experience.examples)
        highest, kept = self._highest(losses), []
        for example, found in zip(experience.examples, losses, strict=True):
            positions = [i for i, is_supervised in enumerate(example.supervised) if is_supervised]
            trained = [i for i in positions[:-1] if i > 0 and not found[i - 1] > highest]
            if not trained and len(positions) > 1:
                continue
            chosen = {*trained, *positions[-1:]}
            kept.append(
                replace(example, supervised=tuple(i in chosen for i in range(len(example))))
            )
        before = sum(example.supervised_tokens for example in experience.examples)
        after = sum(example.supervised_tokens for example in kept)
        self._masked = 1 - after / before
        self._dropped = len(experience.examples) - len(kept)
        if not kept:
            raise UserError(
                f"stm: every token of {experience.name!r} is above the threshold {self.threshold}: "
                "raise it"
            )
        return kept

    def _highest(self, losses: Sequence[Tensor]) -> float:
        """Most nats that a trained token may cost."""
        if self.threshold:
            return math.log(self.threshold)
        known = torch.cat([found[~found.isnan()] for found in losses]).sort().values
        masked = round(self.share * len(known))
        return float(known[len(known) - masked - 1]) if masked < len(known) else math.inf

    def diagnostics(self) -> dict[str, float]:
        """Share of the supervised tokens that is masked, and how many examples are left out."""
        return {"masked_tokens": self._masked, "dropped_examples": float(self._dropped)}

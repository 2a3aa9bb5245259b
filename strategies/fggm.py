"""FGGM: train the rows that the new task is sensitive to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from epi_bench import (
    ChosenWeights,
    Experience,
    TradeOff,
    UserError,
    experience_fisher,
    register_strategy,
    state_part,
    top_share,
    unit_mean,
)


@register_strategy("fggm")
class FGGM(ChosenWeights):
    """Only the rows of matrices that the new experience is most sensitive to move.

    Fisher-guided gradient masking (arXiv 2601.18261), on the update instead of the gradient.

    At the beginning of an experience, from the second one on, its diagonal Fisher information is
    measured with the weights as they are, and averaged over each matrix's row (its input
    dimension); vectors keep one score a weight. The rows with the largest ``share`` of all scores,
    matrices and vectors apart, are trained; the rest is bit-identical until the experience ends.

    The paper sums over a row, so that wide rows always win over single weights; a mean with a
    threshold for each kind puts both on one footing.

    Args:
        share: Of the rows that is trained, in (0, 1]; the paper's threshold of 0.7 is a share of
            0.3.
        fisher_of: ``new``: train what the new experience is sensitive to, as in the paper;
            ``past``: train what the finished ones are not sensitive to.
        fisher_samples: Training examples of a Fisher pass, at least 1.
    """

    needs = ("boundaries",)
    bytes_per_parameter = "4.125"
    trade_off = TradeOff("share", (0.7, 0.5, 0.3, 0.1))
    evidence = "Its authors report that it keeps more general ability than ``migu`` on TRACE."

    acts_from = 1

    def __init__(
        self,
        share: float = 0.3,
        fisher_of: Literal["new", "past"] = "new",
        fisher_samples: int = 64,
    ) -> None:
        if not 0 < share <= 1:
            raise UserError(f"fggm: share={share} must lie in (0, 1]")
        if fisher_samples < 1:
            raise UserError(f"fggm: fisher_samples={fisher_samples} must be at least 1")
        super().__init__()
        self.share = share
        self.fisher_of = fisher_of
        self.fisher_samples = fisher_samples
        self._past: dict[str, Tensor] = {}

    def begin_experience(self, experience: Experience) -> None:
        """Choose what is trained."""
        if experience.index < self.acts_from or self.share == 1:
            return
        if self.fisher_of == "past":
            held = _top(self._past, 1 - self.share)
        else:
            moves = _top(self._row_means(experience, "begin"), self.share)
            held = {name: ~mask for name, mask in moves.items()}
        self.hold(held)

    def end_experience(self, experience: Experience) -> None:
        """Keep what it was sensitive to, if that is asked for."""
        if self.fisher_of == "past" and self.share < 1:
            new = self._row_means(experience, "end")
            self._past = {name: t + self._past.get(name, 0) for name, t in new.items()}
        super().end_experience(experience)

    def state_dict(self) -> dict[str, Tensor]:
        """The mask, and the row scores of finished experiences."""
        return super().state_dict() | {f"past.{name}": t for name, t in self._past.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take both up."""
        self._past = {name: t.clone() for name, t in state_part(state, "past.").items()}
        super().load_state_dict({k: v for k, v in state.items() if not k.startswith("past.")})

    def state_bytes(self) -> int:
        """Bytes of the mask and of the scores."""
        return super().state_bytes() + sum(t.nbytes for t in self._past.values())

    def _row_means(self, experience: Experience, moment: str) -> dict[str, Tensor]:
        """Of each matrix one score a row, with the dimension kept; of a vector one a weight."""
        fisher = unit_mean(
            experience_fisher(
                self.context,
                self.isolation.parameters,
                experience,
                self.fisher_samples,
                f"fisher samples, {moment} of {experience.index}",
            )
        )
        return {
            name: t.flatten(1).mean(1).view(-1, *[1] * (t.dim() - 1)) if t.dim() >= 2 else t
            for name, t in fisher.items()
        }


def _top(scores: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The largest scores, those of rows and those of single weights apart."""
    rows = {name: tensor for name, tensor in scores.items() if tensor.dim() >= 2}
    single = {name: tensor for name, tensor in scores.items() if tensor.dim() < 2}
    return {**top_share(rows, share), **top_share(single, share)}

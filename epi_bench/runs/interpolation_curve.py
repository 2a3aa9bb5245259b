"""The WiSE-FT curve of a run: scores of the models between the base model and the finished one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from epi_bench.model.between_models import BetweenModels
from epi_bench.runs.measurements import CurvePoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from epi_bench.evaluation.evaluator import Evaluator
    from epi_bench.runs.instruments import GeneralText
    from epi_bench.runs.measurements import Measurements

ALPHAS = tuple(tenth / 10 for tenth in range(11))
"""Shares of the finished weights at which the models in between are scored."""


class InterpolationCurve:
    """Measures the curve.

    Args:
        base: The base model as it was loaded.
        alphas: Shares of the finished weights, from 0 to 1.
    """

    def __init__(self, base: PreTrainedModel, alphas: Sequence[float] = ALPHAS) -> None:
        self._between = BetweenModels(base)
        self._alphas = alphas

    def fits(self, model: PreTrainedModel) -> bool:
        """Whether a finished model has the base model's parameters.

        Args:
            model: As the strategy made it.
        """
        return self._between.fits(model)

    def measure(
        self,
        model: PreTrainedModel,
        evaluator: Evaluator,
        text: GeneralText,
        measured: Measurements,
        before: Callable[[float], None],
        keep: Callable[[CurvePoint], None],
    ) -> None:
        """Score every point that has not been; the ends are the run's first and last row.

        Args:
            model: The finished one; afterwards it is as it was, bit for bit.
            evaluator: Scores it on every task.
            text: Is read at every point.
            measured: The run's rows, and the points that it has.
            before: Called with a point's share before it is scored.
            keep: Called with each point.
        """
        done = {point.alpha for point in measured.curve}
        for alpha in self._alphas:
            if alpha in done:
                continue
            if alpha in (0, 1):
                scores = measured.rows[0 if alpha == 0 else -1].scores
            else:
                before(alpha)
                with self._between.at(model, alpha):
                    scores = evaluator.score(model)
            with self._between.at(model, alpha):
                loss, _ = text.negative_log_likelihood(model)
            means = {task: found.mean for task, found in scores.items()}
            errors = {task: found.standard_error for task, found in scores.items()}
            keep(CurvePoint(alpha, means, errors, loss))

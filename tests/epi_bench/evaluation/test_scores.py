"""A task's scores, by hand, and without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from epi_bench.evaluation.scores import TaskScores


def test_mean_and_standard_error_by_hand():
    scores = TaskScores((100.0, 0.0, 100.0, 100.0), {})
    assert scores.mean == 75.0
    assert scores.standard_error == pytest.approx((2500 / 4) ** 0.5)  # variance 2500, n = 4
    assert TaskScores((100.0,), {}).standard_error is None


def test_scores_and_the_log_of_predictions_need_no_torch():
    code = (
        "import sys, epi_bench.evaluation.scores, epi_bench.evaluation.prediction_log\n"
        "assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

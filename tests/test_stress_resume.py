"""Every strategy's run, killed at random moments, ends as one that was left alone."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from epi_bench.strategy.strategy import STRATEGIES

SCRIPT = Path(__file__).parents[1] / "scripts" / "stress_resume.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks, and kills with kill -9"),
]

DRAWN = 10
"""Strategies whose runs are killed."""

TOY = ("--tasks", "toy_first,toy_second", "--steps", "2", "--test-examples", "4",
       "--train-examples", "8", "--max-length", "64")  # fmt: skip

FORGETFUL = '''
from epi_bench import Strategy, register_strategy


@register_strategy("forgetful")
class Forgetful(Strategy):
    """Goes on with other numbers after an interruption, which no attribute tells."""

    def prepare_model(self, model):
        model.count = 0
        return model

    def gradients_ready(self, step):
        step.model.count += 1
        for parameter in step.model.parameters():
            parameter.grad.mul_(1 if step.model.count == step.number else -1)
'''


def _stress(*arguments, model, tmp_path):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments, "--", "--model", model, *TOY],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=1800,
        check=False,
    )


def test_strategies_end_as_if_they_had_been_left_alone(toy_model, toy_tasks, tmp_path):
    """Others in each run of the tests: all of them take minutes (``--strategies all``)."""
    builtin = [name for name in STRATEGIES.names() if STRATEGIES.is_builtin(name)]
    names = random.sample(builtin, DRAWN)
    kills = str(DRAWN)
    arguments = ["--strategies", ",".join(names), "--kills", kills, "--plugin", str(toy_tasks)]
    done = _stress(*arguments, model=toy_model, tmp_path=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    total = rf"seed \d+: {kills} kills, resumed \d+ times, \d+ runs compared, 0 differences"
    assert re.search(total, done.stdout)


def test_a_plugin_that_ends_otherwise_is_found(toy_model, toy_tasks, tmp_path):
    plugin = tmp_path / "forgetful.py"
    plugin.write_text(FORGETFUL)
    arguments = ["--strategies", "forgetful", "--kills", "40", "--seed", "1"]
    for path in (toy_tasks, plugin):
        arguments += ["--plugin", str(path)]
    done = _stress(*arguments, model=toy_model, tmp_path=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"forgetful: after kills in .*record\.json differs", done.stdout)

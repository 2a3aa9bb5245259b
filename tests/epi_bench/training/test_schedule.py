"""Learning rates and numbers of steps: by hand, and beside transformers' schedules."""

from __future__ import annotations

import pytest
import torch

from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.training.schedule import learning_rate_share, steps_of


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("cosine", [0.5, 1.0, 1.0, 0.8535534, 0.5, 0.1464466]),
    ],
)
def test_learning_rate_by_hand(decay, expected):
    spec = TrainingSpec(steps=6, warmup_share=1 / 3, decay=decay)
    shares = [learning_rate_share(step, 6, spec) for step in range(1, 7)]
    assert shares == pytest.approx(expected)


@pytest.mark.parametrize(
    ("budgets", "examples", "budget", "expected"),
    [
        ({"steps": 150}, 10, 1.0, 150),
        ({"steps": 150}, 10, 5.0, 750),
        ({"epochs": 1.0, "batch_size": 8}, 17, 1.0, 3),
        ({"epochs": 2.0, "batch_size": 4, "accumulation": 2}, 16, 1.0, 4),
        ({"epochs": 2.0, "batch_size": 7}, 57, 1.0, 18),  # two passes of 9 steps, as Trainer
        ({"epochs": 0.1, "batch_size": 8}, 8, 1.0, 1),
        ({"epochs": 0.1, "batch_size": 2}, 60, 1.0, 3),
        ({"epochs": 0.5, "batch_size": 7}, 60, 1.0, 5),
    ],
)
def test_steps_of_an_experience(budgets, examples, budget, expected):
    assert steps_of(examples, budget, TrainingSpec(**budgets)) == expected


@pytest.mark.parametrize("decay", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(
    ("steps", "warmup_share"), [(1, 0.0), (1, 1.0), (7, 1.0), (10, 0.05), (20, 0.3), (25, 0.0)]
)
def test_beside_the_schedules_of_transformers(steps, warmup_share, decay):
    """The same after the warm-up; in the warm-up one step ahead.

    transformers begins a warm-up with a step at a learning rate of 0, which trains nothing. Here
    step ``k`` of ``w`` warm-up steps has the share ``k / w``, theirs ``(k - 1) / w``.
    """
    spec = TrainingSpec(steps=steps, warmup_share=warmup_share, decay=decay)
    warmup = round(warmup_share * steps)
    theirs = _shares_of_transformers(decay, warmup, steps)
    for step in range(1, steps + 1):
        share = learning_rate_share(step, steps, spec)
        ahead = 1 / warmup if step <= warmup else 0
        assert share == pytest.approx(theirs[step - 1] + ahead, abs=1e-12)
        assert 0 < share <= 1


def _shares_of_transformers(decay, warmup, steps):
    """Shares of the peak at each step."""
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    name = "constant_with_warmup" if decay == "constant" else decay
    schedule = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    shares = []
    for _ in range(steps):
        shares.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return shares

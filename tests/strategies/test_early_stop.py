"""Early stopping: which weights are kept, when an experience ends, what the record says."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from epi_bench.errors import TrainingFailedError, UserError
from epi_bench.runs.checkpoint_settings import CheckpointSettings
from epi_bench.runs.observer import RunObserver
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing.resuming import resuming_problem
from epi_bench.testing.toys import own_numerics, toy_loop, toy_model, toy_tasks

SOON = {"check_every": 1, "patience": 1, "tolerance": 0.9, "validation_examples": 4}
"""Hardly any check finds a loss that is a tenth of the one before: each task ends with step 2."""


class Losses:
    """An experience of a model with one weight, which is the number of the step."""

    def __init__(self, losses, rises=None, **options):
        self.model = nn.Linear(1, 1, bias=False)
        self.strategy = create_strategy("early_stop", {"check_every": 1, **options})
        self.strategy.context = SimpleNamespace(model=self.model)
        self.losses, self.rises = losses, rises
        self.strategy._held_out = lambda experience: "validation"

    def train(self):
        """Number of the step at which the experience ended, and of the one that was kept."""
        steps = len(self.losses)
        self._set(0)
        self.strategy.begin_experience(None)
        for number in range(1, steps + 1):
            self._set(number)
            rise = self.rises[number - 1] if self.rises else 0.0
            found = {"validation": self.losses[number - 1]}
            self.strategy._base_loss = 0.0
            self.strategy._loss = lambda examples, found=found, rise=rise: (
                found["validation"] if examples == "validation" else rise
            )
            step = SimpleNamespace(
                number_in_experience=number, experience=SimpleNamespace(steps=steps)
            )
            self.strategy.parameters_updated(step)
            if number < steps and self.strategy.stop_experience(step):
                break
        self.strategy.end_experience(None)
        return number, round(self.model.weight.item())

    def _set(self, value):
        with torch.no_grad():
            self.model.weight.fill_(value)


def test_early_stopping_by_hand():
    # 0.995 is no hundredth lower than 1.0, 0.98 is; then three checks keep nothing
    losses = [1.0, 0.995, 0.98, 0.99, 0.985, 0.975, 0.5]
    assert Losses(losses).train() == (6, 3)
    assert Losses(losses, tolerance=0.0).train() == (7, 7)
    assert Losses(losses, patience=1).train() == (2, 1)


def test_the_last_step_is_checked_whatever_the_interval():
    assert Losses([3.0, 2.0, 1.0, 0.9], check_every=3).train() == (4, 4)
    assert Losses([3.0, 2.0, 1.0, 2.0], check_every=3).train() == (4, 3)


def test_a_loss_that_is_no_number_is_never_kept():
    assert Losses([math.nan] * 3).train() == (3, 0)
    assert Losses([2.0, math.nan, 1.0]).train() == (3, 3)


def test_where_a_text_is_forgotten_the_experience_ends_at_once():
    rises = [0.02, 0.05, 0.11, 0.0]
    losses = [4.0, 3.0, 2.0, 1.0]
    options = {"protect_base": "general_text", "largest_rise": 0.1}
    assert Losses(losses, rises, **options).train() == (3, 2)
    assert Losses(losses, rises).train() == (4, 4)
    assert Losses(losses, [0.2] * 4, **options).train() == (1, 0)  # nothing is worth keeping


@given(
    st.lists(st.floats(0.1, 10), min_size=1, max_size=12),
    st.floats(0, 0.5),
    st.integers(1, 4),
)
def test_the_kept_loss_is_within_the_tolerance_of_the_best(losses, tolerance, patience):
    ended, kept = Losses(losses, tolerance=tolerance, patience=patience).train()
    assert 1 <= kept <= ended
    assert losses[kept - 1] * (1 - tolerance) <= min(losses[:ended]) * (1 + 1e-12)
    if ended < len(losses):
        assert ended - kept == patience


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_kept_weights_come_back_bit_for_bit(dtype):
    with own_numerics():
        strategy = create_strategy("early_stop", SOON)
        loop = toy_loop(strategy, model=toy_model(dtype=dtype))
        after = []
        loop.train(
            toy_tasks()[0],
            at_rest=lambda: after.append([p.detach().clone() for p in loop.model.parameters()]),
        )
    assert len(after) == 2  # of three steps
    assert loop.cost.steps_made == {"0": 2}
    assert loop.cost.held_out == {"0": 4}
    first, second = after
    for parameter, kept, last in zip(loop.model.parameters(), first, second, strict=True):
        assert torch.equal(parameter, kept)
        assert not torch.equal(parameter, last)


@pytest.mark.parametrize("more", [{}, {"protect_base": "self", "largest_rise": 0.0}])
def test_a_task_that_ended_early_is_resumed_exactly(more):
    """Interrupted after each step, the one among them with which the task ended."""
    assert resuming_problem(lambda: create_strategy("early_stop", {**SOON, **more})) is None


def test_held_out_examples_are_not_trained():
    strategy = create_strategy("early_stop", SOON)
    loop = toy_loop(strategy)
    experience = toy_tasks()[0]
    trained = strategy.training_examples(experience)
    held_out = strategy._held_out(experience)
    assert len(held_out) == 4
    assert set(held_out) | set(trained) == set(experience.examples)
    assert not set(held_out) & set(trained)
    assert loop.context.validation_split(experience, 4).validation == held_out


def test_a_record_tells_the_steps_that_were_made(run_toy):
    record = run_toy("early_stop", SOON).record
    assert record.status == "finished"
    assert [(e.steps, e.steps_made, e.held_out) for e in record.experiences] == [(6, 2, 4)] * 2
    assert [point.step for point in record.losses] == [2, 4]
    assert record.cost.extra_tokens > 0
    whole = run_toy("full_sft").record
    assert [(e.steps_made, e.held_out) for e in whole.experiences] == [(None, 0)] * 2
    assert whole.cost.extra_tokens == 0


def test_a_mixture_that_ends_early_has_all_rows(run_toy):
    """What is scored in the middle of an experience is scored at its end, if that comes before."""
    record = run_toy("early_stop", SOON, stream={"kind": "mixed"}).record
    assert record.score_matrix.rows == ("base", "mixed step 6", "mixed")
    assert record.experiences[0].steps_made == 2


def test_an_interrupted_run_goes_on_where_the_strategy_had_ended_the_experience(run_toy, tmp_path):
    class Stop(RunObserver):
        def step_done(self, report):
            if report.number == 2:
                raise KeyboardInterrupt

    request = {"checkpoints": CheckpointSettings(every_steps=1)}
    with pytest.raises(KeyboardInterrupt):
        run_toy("early_stop", SOON, observer=Stop(), request=request)
    resumed = run_toy("early_stop", SOON, request=request).record
    whole = run_toy("early_stop", SOON, out=tmp_path / "whole").record
    assert resumed.environment.resumed == 1
    assert resumed.experiences == whole.experiences
    assert resumed.score_matrix == whole.score_matrix
    assert resumed.losses == whole.losses


def test_too_few_examples_to_hold_one_out():
    loop = toy_loop(create_strategy("early_stop", {}))
    alone = toy_tasks()[0]
    with pytest.raises(TrainingFailedError, match="has 1 different training examples, too few"):
        loop.train(replace(alone, examples=[alone.examples[0]] * 5))


def test_a_warning_where_it_never_stops():
    strategy = create_strategy("early_stop", {"check_every": 6})
    (warning,) = strategy.check_run(TrainingSpec(steps=6), [6, 6])
    assert "full fine-tuning on fewer examples" in warning
    assert not strategy.check_run(TrainingSpec(steps=7), [6, 7])


@pytest.mark.parametrize(
    "options",
    [
        {"check_every": 0}, {"validation_examples": 0}, {"patience": 0}, {"tolerance": 1.0},
        {"largest_rise": -0.1}, {"largest_rise": float("nan")},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=f"early_stop: {next(iter(options))}="):
        create_strategy("early_stop", options)

"""A strategy that forgets a part of its state does not make a run go on with wrong numbers."""

from __future__ import annotations

import pytest

from epi_bench import Strategy, register_strategy
from epi_bench.results.record.record_file import comparable
from epi_bench.runs.checkpoint_settings import CheckpointSettings
from epi_bench.runs.observer import RunObserver


class Listener(RunObserver):
    """Interrupts a run after a step, and keeps its warnings and steps."""

    def __init__(self, interrupt_after=None):
        self.interrupt_after = interrupt_after
        self.warnings, self.notes, self.steps = [], [], []

    def step_done(self, report):
        self.steps.append(report.number)
        if report.number == self.interrupt_after:
            raise KeyboardInterrupt

    def warning(self, message):
        self.warnings.append(message)

    def note(self, message):
        self.notes.append(message)


@register_strategy("forgetful_sign")
class ForgetfulSign(Strategy):
    """Counts steps, and goes uphill in every second one."""

    def __init__(self):
        self.sign = 1.0

    def gradients_ready(self, step):
        self.sign = -self.sign
        for parameter in step.model.parameters():
            parameter.grad.mul_(self.sign)


def test_the_attribute_is_named_and_the_run_starts_from_the_beginning(run_toy, tmp_path):
    request = {"checkpoints": CheckpointSettings(every_steps=3)}
    whole = run_toy("forgetful_sign", out=tmp_path / "whole", steps=4)
    with pytest.raises(KeyboardInterrupt):
        run_toy("forgetful_sign", observer=Listener(interrupt_after=4), request=request, steps=4)
    listener = Listener()
    outcome = run_toy("forgetful_sign", observer=listener, request=request, steps=4)
    [warning] = [message for message in listener.warnings if "checkpoint" in message]
    assert "is not used: strategy forgetful_sign keeps sign, which its state_dict does" in warning
    assert "no checkpoint can be used: the run starts from the beginning" in listener.notes
    assert listener.steps == list(range(1, 9))
    assert comparable(outcome.record) == comparable(whole.record)
    assert outcome.record.environment.resumed == 0

"""Signals while a run is under way."""

from __future__ import annotations

import signal

import pytest

from epi_bench.runs.interruption import RunInterruptedError, exit_code, sigterm_interrupts
from epi_bench.runs.stopping import StopSignals


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGHUP, None])
@pytest.mark.parametrize(
    ("first", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["ctrl_c", "sigterm", "closed_terminal"],
)
def test_a_step_is_finished_though_sigterm_comes_twice(first, code, second):
    """A terminal sends Ctrl-C to all processes, and a parent passes it on as SIGTERM."""
    before, signals, steps = signal.getsignal(signal.SIGTERM), StopSignals(), 0
    with pytest.raises(RunInterruptedError) as stopped, sigterm_interrupts(), signals.caught():
        with signals.held_off():
            signal.raise_signal(first)
            if second:
                signal.raise_signal(second)
            steps = 1
        pytest.fail("the signal has no effect")
    assert steps == 1
    assert exit_code(stopped.value) == code
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_ctrl_c_does_not_wait():
    signals = StopSignals()
    with pytest.raises(RunInterruptedError), signals.caught(), signals.held_off():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it waits")


def test_clearing_up_after_a_run_is_not_interrupted_again():
    cleared = False
    with pytest.raises(RunInterruptedError), sigterm_interrupts():
        signals = StopSignals()
        try:
            with signals.caught():
                signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleared = True
    assert cleared


def test_a_closed_terminal_does_not_matter_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with sigterm_interrupts(), StopSignals().caught():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_outside_a_run_has_its_code():
    assert exit_code(KeyboardInterrupt()) == 130

"""Who hears what of a run, and what the event log keeps."""

from __future__ import annotations

import inspect
import json

import pytest

from epi_bench.runs.observer import EventLog, Observers, RunObserver, StepReport, logged_warnings

HOOKS = [name for name in vars(RunObserver) if not name.startswith("_")]


def recorder(calls, name):
    """An observer that writes down every call of every hook."""

    def hook(method):
        return lambda self, *given, **named: calls.append((name, method, given, named))

    return type("Recorder", (RunObserver,), {method: hook(method) for method in HOOKS})()


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_reaches_every_observer_in_order(name):
    calls = []
    observers = Observers(recorder(calls, "first"), recorder(calls, "second"))
    parameters = [
        p for p in inspect.signature(getattr(RunObserver, name)).parameters if p != "self"
    ]
    values = [object() for _ in parameters]
    getattr(observers, name)(*values)
    by_name = dict(zip(parameters, values, strict=True))
    getattr(observers, name)(**by_name)
    assert calls == [
        ("first", name, tuple(values), {}),
        ("second", name, tuple(values), {}),
        ("first", name, (), by_name),
        ("second", name, (), by_name),
    ]


def test_there_are_hooks():
    assert {"step_done", "scored", "warning", "run_ended"} <= set(HOOKS)


def test_the_event_log_keeps_every_event_and_each_tenth_step(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text("of an earlier try\n")
    log = EventLog(path, log_every=10)
    log.run_started("abc", "epi", 20, ["a"])
    log.warning("careful")
    for number in range(1, 21):
        log.step_done(StepReport(number, 20, "a", 0, 1, 2.0, 1e-3))
    log.step_skipped(3, "a")
    log.scored("a", {"a": 50.0})
    log.diagnostics(20, {"achieved_ratio": 0.5})
    log.diagnostics(20, {})
    log.run_ended("finished", None)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["event"] for event in events] == [
        "run_started", "warning", "step", "step", "step_skipped", "scored", "diagnostics",
        "run_ended",
    ]  # fmt: skip
    assert [event["step"] for event in events if event["event"] == "step"] == [10, 20]
    assert logged_warnings(path) == ["careful"]


def test_a_run_without_an_event_log_has_no_warnings(tmp_path):
    assert logged_warnings(tmp_path / "events.jsonl") == []

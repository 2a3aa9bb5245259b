"""Lost runs are tried again, late ones stopped: with a Ray that only pretends, and a clock."""

from __future__ import annotations

import json
from dataclasses import dataclass
from queue import Queue

import pytest

from epi_bench.runs import ray_tasks
from epi_bench.runs.child import GRACE_SECONDS
from epi_bench.runs.ray_resources import RaySettings
from epi_bench.runs.ray_tasks import BUSY_SECONDS, RayTasks, Task
from epi_bench.runs.ray_worker import Mailbox

ray = pytest.importorskip("ray")

LOST = ray.exceptions.NodeDiedError("gone")
FINISHED = json.dumps({"busy": None})
BUSY = json.dumps({"busy": "process 7 on vm"})
FOREVER = object()


@dataclass(eq=False)
class Reference:
    result: object


class PretendedRay:
    """Gives each try of a run the next result; time goes on by half a second at each look.

    Args:
        results: Of the tries, in their order.
        events: Names of events that a try reports, by its number.
    """

    def __init__(self, results, events=None):
        self.results, self.events = list(results), events or {}
        self.handed_over, self.cancelled = [], []
        self.now, self.mail, self.ends_at_cancel = 0.0, [], True

    def install(self, monkeypatch):
        for name in ("remote", "wait", "get", "cancel"):
            monkeypatch.setattr(ray, name, getattr(self, name))
        monkeypatch.setattr(ray, "get_runtime_context", lambda: self)
        monkeypatch.setattr(ray_tasks, "monotonic", lambda: self.now)

    def get_node_id(self):
        return "00" * 28

    def remote(self, target):
        return PretendedMailbox(self) if target is Mailbox else self

    def options(self, **options):
        def hand_over(mailbox, position, attempt, order, surroundings):
            forced = json.loads(order)["request"]["force"]
            self.handed_over.append((attempt, forced, self.now))
            head = {"position": position, "attempt": attempt}
            self.mail.append(json.dumps({**head, "started": "there"}))
            for event in self.events.get(attempt, ()):
                content = {"event": event, "arguments": ["finished", None]}
                self.mail.append(json.dumps({**head, "event": content}))
            return Reference(self.results.pop(0))

        return type("Handle", (), {"remote": staticmethod(hand_over)})

    def wait(self, references, num_returns, timeout):
        self.now += 0.5
        ended = [r for r in references if r.result is not FOREVER][:num_returns]
        return ended, [r for r in references if r not in ended]

    def get(self, asked):
        if not isinstance(asked, Reference):
            return asked
        if isinstance(asked.result, Exception):
            raise asked.result
        return asked.result

    def cancel(self, reference, force):
        self.cancelled.append((force, self.now))
        if force or self.ends_at_cancel:
            reference.result = ray.exceptions.TaskCancelledError()


class PretendedInbox(Queue):
    """Waits by the pretended clock."""

    def __init__(self, pretended):
        super().__init__()
        self.pretended = pretended

    def get(self, timeout):
        self.pretended.now += timeout
        return super().get(block=False)


class PretendedMailbox:
    def __init__(self, pretended):
        self.pretended = pretended
        self.take = type("Method", (), {"remote": staticmethod(self.take_all)})

    def options(self, **options):
        return self

    def remote(self):
        return self

    def take_all(self):
        taken, self.pretended.mail = self.pretended.mail, []
        return taken


def made(pretended, monkeypatch, force=False, **settings):
    """What is said of one run until it has ended."""
    pretended.install(monkeypatch)
    inbox, said = PretendedInbox(pretended), []
    order = json.dumps({"request": {"force": force}}).encode()
    inbox.put(Task(0, "epi, seed 0", order, "{}"))

    def say(message):
        said.append(message)
        if "outcome" in message or "error" in message:
            inbox.put(None)

    RayTasks(RaySettings(**settings), say).serve(inbox)
    return said


def warnings(said):
    events = [message["event"] for message in said if "event" in message]
    return [event["arguments"][0] for event in events if event["event"] == "warning"]


def test_a_lost_run_is_tried_again_and_that_is_said(monkeypatch):
    said = made(PretendedRay([LOST, FINISHED]), monkeypatch)
    assert warnings(said) == ["epi, seed 0: there was lost; it is tried again (2 of 4)"]
    assert said[-1] == {"position": 0, "outcome": {"busy": None}, "attempt": 2}


def test_after_all_tries_it_is_an_error(monkeypatch):
    pretended = PretendedRay([LOST] * 3)
    said = made(pretended, monkeypatch, retries=2)
    assert len(warnings(said)) == 2
    assert said[-1]["error"] == "there was lost; given up after 3 tries (retries)"
    assert [attempt for attempt, _, _ in pretended.handed_over] == [1, 2, 3]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ray.exceptions.OutOfMemoryError("x"), "there ran out of memory"),
        (ray.exceptions.WorkerCrashedError(), "its process on there ended unexpectedly"),
        (ray.exceptions.TaskCancelledError(), "its process on there was asked to end"),
    ],
)
def test_what_was_lost_is_named(error, words, monkeypatch):
    assert words in warnings(made(PretendedRay([error, FINISHED]), monkeypatch))[0]


def test_an_error_that_stays_is_not_tried_again(monkeypatch):
    cause = ModuleNotFoundError("No module named 'epi_bench'", name="epi_bench")
    error = ray.exceptions.RayTaskError("f", "traceback", cause)
    said = made(PretendedRay([error]), monkeypatch)
    assert said[-1]["error"] == "there cannot import epi_bench: install epi-bench on all machines"


@pytest.mark.parametrize(
    ("events", "forced"),
    [
        ([], [True, True]),  # what it is to replace may still be there
        (["step_done"], [True, True]),
        (["checkpoint_saved"], [True, False]),
        (["run_ended"], [True, False]),
    ],
)
def test_a_run_that_began_anew_goes_on_where_it_has_written_something(events, forced, monkeypatch):
    pretended = PretendedRay([LOST, FINISHED], {1: events})
    made(pretended, monkeypatch, force=True)
    assert [force for _, force, _ in pretended.handed_over] == forced


def test_the_next_try_waits_for_the_lock_of_the_lost_one(monkeypatch):
    pretended = PretendedRay([LOST, BUSY, BUSY, FINISHED])
    said = made(pretended, monkeypatch)
    assert said[-1]["outcome"] == {"busy": None}
    assert [attempt for attempt, _, _ in pretended.handed_over] == [1, 2, 2, 2]


def test_it_does_not_wait_for_ever(monkeypatch):
    pretended = PretendedRay([LOST, *[BUSY] * 1000])
    said = made(pretended, monkeypatch)
    assert said[-1]["outcome"] == {"busy": "process 7 on vm"}
    assert BUSY_SECONDS < pretended.now < BUSY_SECONDS + 10


def test_what_others_make_is_not_waited_for(monkeypatch):
    pretended = PretendedRay([BUSY])
    assert made(pretended, monkeypatch)[-1]["outcome"] == {"busy": "process 7 on vm"}


def test_a_late_run_is_stopped_and_not_tried_again(monkeypatch):
    pretended = PretendedRay([FOREVER])
    said = made(pretended, monkeypatch, timeout=60)
    assert said[-1]["error"] == "stopped after 60 seconds (timeout)"
    [(force, at)] = pretended.cancelled
    assert not force
    assert 60 < at < 62


def test_one_that_does_not_stop_is_ended(monkeypatch):
    pretended = PretendedRay([FOREVER])
    pretended.ends_at_cancel = False
    said = made(pretended, monkeypatch, timeout=60)
    assert said[-1]["error"] == "stopped after 60 seconds (timeout)"
    (_, asked), (force, ended) = pretended.cancelled
    assert force
    assert ended - asked > GRACE_SECONDS


def test_the_time_of_a_try_starts_anew(monkeypatch):
    pretended = PretendedRay([LOST, FOREVER])
    made(pretended, monkeypatch, timeout=60)
    _, (_, _, second) = pretended.handed_over
    assert pretended.cancelled[0][1] - second > 60

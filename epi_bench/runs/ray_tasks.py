"""Runs as tasks of Ray: handed over, followed, and tried again where one was lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, Queue
from time import monotonic
from typing import Any

from epi_bench.errors import describe_error
from epi_bench.runs.child import GRACE_SECONDS
from epi_bench.runs.messages import Event
from epi_bench.runs.ray_resources import RaySettings
from epi_bench.runs.ray_worker import Mailbox, make_run_as_task

POLL_SECONDS = 0.1
BUSY_SECONDS = 300.0
"""That the next try is held up at most by the lock of the lost one, which servers free late."""

BUSY_POLL_SECONDS = 2.0


@dataclass
class Task:
    """A run on its way.

    Attributes:
        position: Among those that are asked for.
        title: For Ray's own displays.
        order: As :meth:`epi_bench.runs.order.Order.to_json` writes it.
        surroundings: As :meth:`Surroundings.to_json` writes it.
        attempt: Which try this is, from 1.
        reference: Ray's; ``None`` until the task is handed to it.
        machine: That makes it, once it has begun.
        started_at: On this process's clock, once it has begun.
        not_before: When it may be handed to Ray.
        stopped_at: When it was stopped for taking too long, if it was.
        lost_at: When its last try was lost, if one was.
        goes_on: Whether an earlier try has left a checkpoint or a record of its own.
    """

    position: int
    title: str
    order: bytes
    surroundings: str
    attempt: int = 1
    reference: Any = None
    machine: str = "a machine"
    started_at: float | None = None
    not_before: float = 0.0
    stopped_at: float | None = None
    lost_at: float | None = None
    goes_on: bool = False


class RayTasks:
    """Hands runs to Ray, follows them, and tries lost ones again.

    Args:
        settings: How.
        say: Sends a message to the process that asks.
    """

    def __init__(self, settings: RaySettings, say: Callable[[dict[str, Any]], None]) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._settings = settings
        self._say = say
        self._tasks: dict[int, Task] = {}
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # beside this process, so that it is lost with nothing else
        self._mailbox: Any = (
            ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        )
        self._make_run = ray.remote(make_run_as_task)

    def serve(self, inbox: Queue[Task | None]) -> None:
        """Make runs until the inbox says that there are no more to come, and stop then.

        Args:
            inbox: Gets the runs, and ``None`` at the end.
        """
        while True:
            is_followed = any(task.reference is not None for task in self._tasks.values())
            try:
                task = inbox.get(timeout=0 if is_followed else POLL_SECONDS)
            except Empty:
                self._follow()
                continue
            if task is None:
                self._stop_all()
                return
            self._tasks[task.position] = task

    def _follow(self) -> None:
        """Hand over what is due, pass on what was reported, and see what has ended."""
        import ray

        for task in self._tasks.values():
            if task.reference is None and monotonic() >= task.not_before:
                task.reference = self._hand_over(task)
        by_reference = {t.reference: t for t in self._tasks.values() if t.reference is not None}
        if not by_reference:
            return
        ended, _ = ray.wait(list(by_reference), num_returns=1, timeout=POLL_SECONDS)
        self._pass_on_reports()
        for reference in ended:
            self._conclude(by_reference[reference])
        self._stop_late()

    def _hand_over(self, task: Task) -> Any:
        """Ray's reference of the task, which begins where and when there is room for it."""
        return self._make_run.options(
            name=task.title,
            num_cpus=self._settings.cpus_per_run,
            num_gpus=self._settings.gpus_per_run,
            max_retries=0,  # tried again here, so that it is told and the time starts anew
            scheduling_strategy="SPREAD",
        ).remote(self._mailbox, task.position, task.attempt, task.order, task.surroundings)

    def _pass_on_reports(self) -> None:
        import ray

        for line in ray.get(self._mailbox.take.remote()):
            report = json.loads(line)
            task = self._tasks.get(report["position"])
            if task is None or task.attempt != report["attempt"]:
                continue  # the last words of a lost try
            if "started" in report:
                task.machine, task.started_at = report["started"], monotonic()
            else:
                task.goes_on = task.goes_on or _leaves_something(report["event"])
                self._say({"position": task.position, "event": report["event"]})

    def _conclude(self, task: Task) -> None:
        """A task of Ray's has ended, one way or another."""
        import ray

        try:
            outcome = json.loads(ray.get(task.reference))
        except ray.exceptions.RayError as error:
            self._lost(task, error)
            return
        now = monotonic()
        if outcome["busy"] and task.lost_at is not None and now - task.lost_at < BUSY_SECONDS:
            task.reference, task.not_before = None, now + BUSY_POLL_SECONDS
        else:
            self._end(task, outcome=outcome, attempt=task.attempt)

    def _lost(self, task: Task, error: Exception) -> None:
        """Try again where that may help, and give the run up where it does not."""
        what = what_was_lost(error, task.machine)
        tries = self._settings.retries + 1
        if task.stopped_at is not None:
            self._end(task, error=f"stopped after {self._settings.timeout:g} seconds (timeout)")
        elif what is None:
            self._end(task, error=_reason(error, task.machine))
        elif task.attempt >= tries:
            self._end(task, error=f"{what}; given up after {tries} tries (retries)")
        else:
            task.attempt += 1
            task.reference, task.started_at, task.lost_at = None, None, monotonic()
            if task.goes_on:
                task.order = _without_force(task.order)
            told = f"{task.title}: {what}; it is tried again ({task.attempt} of {tries})"
            self._warn(task.position, told)

    def _stop_late(self) -> None:
        """Interrupt what takes too long; it writes a checkpoint and ends, or is ended."""
        import ray

        now, limit = monotonic(), self._settings.timeout
        for task in self._tasks.values():
            if limit is None or task.started_at is None or now - task.started_at <= limit:
                continue
            if task.stopped_at is None:
                task.stopped_at = now
                ray.cancel(task.reference, force=False)
            elif now - task.stopped_at > GRACE_SECONDS:
                ray.cancel(task.reference, force=True)

    def _stop_all(self) -> None:
        """Interrupt everything, and end what does not end by itself."""
        import ray

        left = [task.reference for task in self._tasks.values() if task.reference is not None]
        self._tasks.clear()
        for force, seconds in ((False, GRACE_SECONDS), (True, 1.0)):
            for reference in left:
                ray.cancel(reference, force=force)
            if left:
                _, left = ray.wait(left, num_returns=len(left), timeout=seconds)

    def _end(self, task: Task, **content: Any) -> None:
        del self._tasks[task.position]
        self._say({"position": task.position, **content})

    def _warn(self, position: int, message: str) -> None:
        self._say({"position": position, "event": {"event": "warning", "arguments": [message]}})


def _leaves_something(event: Event) -> bool:
    """Whether the run has written what its next try can go on from."""
    if event["event"] == "run_ended":
        return bool(event["arguments"][0] == "finished")
    return bool(event["event"] == "checkpoint_saved")


def _without_force(order: bytes) -> bytes:
    """The order to go on: what was there before the first try is gone already."""
    content = json.loads(order)
    content["request"]["force"] = False
    return json.dumps(content).encode()


def what_was_lost(error: Exception, machine: str) -> str | None:
    """Why a task of Ray's ended without a result, if it may do better on its next try.

    Args:
        error: One of ``ray.exceptions``.
        machine: That made the run.
    """
    from ray import exceptions

    if isinstance(error, exceptions.OutOfMemoryError):
        return f"{machine} ran out of memory"
    if isinstance(error, exceptions.NodeDiedError | exceptions.LocalRayletDiedError):
        return f"{machine} was lost"
    if isinstance(error, exceptions.WorkerCrashedError):
        return f"its process on {machine} ended unexpectedly"
    if isinstance(error, exceptions.TaskCancelledError):
        return f"its process on {machine} was asked to end"
    if isinstance(error, exceptions.ObjectLostError):
        return f"what {machine} reported was lost"
    return None


def _reason(error: Exception, machine: str) -> str:
    from ray.exceptions import RayTaskError

    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, ModuleNotFoundError):
        return f"{machine} cannot import {cause.name}: install epi-bench on all machines"
    return describe_error(cause)

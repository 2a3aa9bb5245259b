"""Runs side by side on one machine, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from epi_bench.runs.child import GRACE_SECONDS
from epi_bench.runs.messages import Message, outcome_from_json
from epi_bench.runs.order import Order
from epi_bench.runs.reproducibility import current_execution
from epi_bench.runs.request import RunOutcome
from epi_bench.runs.worker import Worker
from epi_bench.spec.run_spec import RunSpec

GPUS = "CUDA_VISIBLE_DEVICES"

SECONDS_TO_END = GRACE_SECONDS + 2
"""After which a process is killed that should have killed its run by then."""


class LocalProcesses:
    """A backend: up to ``jobs`` processes on this machine, which stay for the next runs.

    Where there are several GPUs, each process gets one of them, in turn.

    Args:
        jobs: Runs at a time.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._idle: list[Worker] = []
        self._started = 0
        self._gpus: Sequence[str] | None = None
        self._said: SimpleQueue[tuple[Worker, dict[str, Any] | None]] = SimpleQueue()

    @property
    def runs_at_a_time(self) -> int:
        """See :class:`epi_bench.runs.backend.Backend`."""
        return self._jobs

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        idle, self._idle = self._idle, []
        _end(idle)

    def run(self, orders: Sequence[Order]) -> Generator[tuple[int, Message]]:
        """See :meth:`epi_bench.runs.backend.Backend.run`."""
        waiting = deque(enumerate(replace(o, spec=_as_here(o.spec)) for o in orders))
        under_way: dict[Worker, _Assignment] = {}
        try:
            while waiting or under_way:
                while waiting and len(under_way) < self._jobs:
                    worker = self._idle.pop() if self._idle else self._start()
                    under_way[worker] = _Assignment(*waiting.popleft())
                    worker.give(under_way[worker].order)
                worker, message = self._said.get()
                if message is None and worker in self._idle:
                    self._idle.remove(worker)
                if worker not in under_way:
                    continue
                said = under_way[worker].take(worker, message)
                if message is None or "ended" in message:
                    del under_way[worker]
                    if message is not None:
                        self._idle.append(worker)
                if said is not None:
                    yield said
        finally:  # on Ctrl-C, or if nobody asks for the rest
            _end(under_way)

    def _start(self) -> Worker:
        if self._gpus is None:
            self._gpus = visible_gpus()
        variables = {}
        if len(self._gpus) > 1:
            variables[GPUS] = self._gpus[self._started % len(self._gpus)]
        self._started += 1
        return Worker(lambda worker, message: self._said.put((worker, message)), variables)


def _as_here(spec: RunSpec) -> RunSpec:
    """The run as this process would make it, whatever number of threads torch has in another one.

    Where torch is not imported yet, nobody has changed that number, and a process that this one
    starts finds the same.
    """
    return current_execution().resolve(spec) if "torch" in sys.modules else spec


class _Assignment:
    """What a worker is at, and whether its outcome is known."""

    def __init__(self, position: int, order: Order) -> None:
        self.position = position
        self.order = order
        self._has_outcome = False

    def take(self, worker: Worker, message: dict[str, Any] | None) -> tuple[int, Message] | None:
        """What a message means for whoever waits for the run, if anything.

        Args:
            worker: Who said it.
            message: As :mod:`epi_bench.runs.child` writes it; ``None`` if there is no more to come.
        """
        if message is not None and "event" in message:
            return self.position, message
        if message is not None and "outcome" in message:
            self._has_outcome = True
            return self.position, outcome_from_json(message["outcome"])
        if self._has_outcome or (message is not None and "ended" not in message):
            return None
        reason = worker.last_words(message["ended"] if message else None)
        return self.position, RunOutcome(self.order.spec, None, error=reason)


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs that a process here may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    given = os.environ.get(GPUS)
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    return [str(number) for number in range(count)]


def _end(workers: Iterable[Worker]) -> None:
    """End processes, all at the same time; a second Ctrl-C meanwhile kills them."""
    ending = list(workers)
    for worker in ending:
        worker.let_go()
    try:
        deadline = time.monotonic() + SECONDS_TO_END
        for worker in ending:
            worker.wait(deadline - time.monotonic())
    except BaseException:
        for worker in ending:
            worker.kill()
        raise

"""Runs side by side on one machine, each in a process of its own."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from types import TracebackType
from typing import Self

from epi_bench.runs.child_process import ChildProcess
from epi_bench.runs.messages import Message
from epi_bench.runs.order import Order
from epi_bench.runs.request import RunOutcome


class LocalProcesses:
    """A backend: up to ``jobs`` processes on this machine.

    Args:
        jobs: Runs at a time.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs

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
        return

    def run(self, orders: Sequence[Order]) -> Generator[tuple[int, Message]]:
        """See :meth:`epi_bench.runs.backend.Backend.run`."""
        children = [ChildProcess(order) for order in orders]
        messages: Queue[tuple[int, Message | BaseException]] = Queue()

        def follow(position: int) -> None:
            try:
                outcome = children[position].run(lambda event: messages.put((position, event)))
                messages.put((position, outcome))
            except BaseException as error:  # noqa: BLE001  (raised below, where it can be seen)
                messages.put((position, error))

        pool = ThreadPoolExecutor(self._jobs)
        try:
            for position in range(len(children)):
                pool.submit(follow, position)
            waiting = len(children)
            while waiting:
                position, message = messages.get()
                if isinstance(message, BaseException):
                    raise message
                waiting -= isinstance(message, RunOutcome)
                yield position, message
        finally:  # on Ctrl-C, or if nobody asks for the rest
            for child in children:
                child.stop()
            pool.shutdown(cancel_futures=True)

"""What makes several runs outside this process: processes on this machine, or a cluster."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from types import TracebackType
from typing import Protocol, Self

from epi_bench.runs.messages import Message
from epi_bench.runs.order import Order


class Backend(Protocol):
    """Makes runs in other processes; use as a context manager.

    What it starts, it keeps between two calls of :meth:`run`, and ends when it is left.
    """

    @property
    def runs_at_a_time(self) -> int:
        """How many it makes at a time at most; they share a judge's requests a minute."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def run(self, orders: Sequence[Order]) -> Generator[tuple[int, Message]]:
        """Make all ordered runs.

        Closing the iterator ends those under way within seconds: they get SIGTERM, at which a run
        writes a checkpoint.

        Args:
            orders: One a run.

        Yields:
            The position of a run in ``orders`` and what it says: its events in the order in which
            they happen, and in the end its outcome, one for each. A process that dies is an
            outcome with its last words as the error.
        """
        ...

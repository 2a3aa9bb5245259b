"""What happens on the machine that Ray chose for a run: the task, and how it reports.

Nothing here imports Ray: the functions and classes are handed to it by :mod:`ray_driver`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from epi_bench.errors import UserError
from epi_bench.runs.child import make_ordered_run
from epi_bench.runs.interruption import sigterm_interrupts
from epi_bench.runs.messages import Event, event_writer, outcome_to_json
from epi_bench.runs.order import Order, order_from_json
from epi_bench.runs.quiet import hold_back_libraries
from epi_bench.runs.request import RunOutcome

VERSION = version("epi-bench")

FREQUENT = ("step_done", "preparing")
"""Events that may come many times a second and are sent together."""

SECONDS_BETWEEN_SENDINGS = 0.25
SECONDS_FOR_THE_LAST = 30.0
"""That a finished task waits at most until all it reported has arrived."""

SECONDS_FOR_THE_FOLDER = 10.0
"""That a network folder may take until it shows what another machine has just written."""


class Mailbox:
    """What the tasks of a session report, until it is fetched; one actor, beside the driver."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def put(self, lines: list[str]) -> None:
        """Add lines of JSON."""
        self._lines += lines

    def take(self) -> list[str]:
        """All lines since the last call."""
        taken, self._lines = self._lines, []
        return taken


@dataclass(frozen=True)
class Surroundings:
    """What a run must find on the machine that makes it, as on the machine that asks for it.

    Attributes:
        folder: The working folder, which relative paths start from.
        mark: A file in the folder for results that shows whether it is the same; ``None`` where
            one machine makes all runs.
        threads: CPU threads of torch where the specification leaves them open.
        version: Of this package.
    """

    folder: str
    mark: str | None
    threads: int | None
    version: str = VERSION

    def to_json(self) -> str:
        """For the way to the other machine."""
        return json.dumps(asdict(self))

    def take_up(self, order: Order) -> None:
        """Make this process like the one that asks.

        Raises:
            UserError: If this machine cannot make the run; it is named.
        """
        here = f"machine {socket.gethostname()}"
        if self.version != VERSION:
            raise UserError(
                f"{here} has epi-bench {VERSION}, this one {self.version}: install the same "
                "on all machines"
            )
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise UserError(
                f"{here} has no folder {self.folder} ({error.strerror}): start from a folder that "
                "all machines share"
            ) from error
        if self.mark and not appears(Path(self.mark), SECONDS_FOR_THE_FOLDER):
            raise UserError(
                f"{Path(self.mark).parent} on {here} is another folder than here, and results "
                "would stay there: give one that all machines share",
                setting="out",
            )
        if self.threads and order.spec.threads is None:
            import torch

            torch.set_num_threads(self.threads)  # Ray asks libraries for one a CPU of the task


class Reporter:
    """Sends what a run reports to the mailbox, frequent events together.

    Args:
        put: Sends lines; returns what to wait for.
        wait: Waits for what ``put`` returned.
        head: What every line says beside the event.
    """

    def __init__(
        self, put: Callable[[list[str]], Any], wait: Callable[[Any], None], head: dict[str, Any]
    ) -> None:
        self._put, self._wait, self._head = put, wait, head
        self._lines: list[str] = []
        self._sent_at = 0.0
        self._last: Any = None

    def event(self, event: Event) -> None:
        """Report an event."""
        self._add({"event": event})
        frequent = event["event"] in FREQUENT
        if not frequent or monotonic() - self._sent_at >= SECONDS_BETWEEN_SENDINGS:
            self._send()

    def started(self) -> None:
        """Report that the task has begun, and on which machine."""
        self._add({"started": socket.gethostname()})
        self._send()

    def close(self) -> None:
        """Send the rest and wait until all has arrived."""
        self._send()
        self._wait(self._last)

    def _add(self, content: dict[str, Any]) -> None:
        self._lines.append(json.dumps({**self._head, **content}))

    def _send(self) -> None:
        if self._lines:
            self._last = self._put(self._lines)
        self._lines = []
        self._sent_at = monotonic()


def make_run_as_task(
    mailbox: Any, position: int, attempt: int, order: bytes, surroundings: str
) -> str:
    """Make a run in a worker of Ray.

    Args:
        mailbox: The actor that gets the events.
        position: Of the run among those that are asked for.
        attempt: Which try this is, from 1.
        order: As :meth:`Order.to_json` writes it.
        surroundings: As :meth:`Surroundings.to_json` writes it.

    Returns:
        The outcome as JSON, without its record, which is in a file: what Ray keeps of a task may
        be lost with a machine.
    """
    reporter = Reporter(mailbox.put.remote, _arrived, {"position": position, "attempt": attempt})
    reporter.started()
    outcome = _outcome(order_from_json(order), Surroundings(**json.loads(surroundings)), reporter)
    reporter.close()
    return json.dumps(outcome_to_json(replace(outcome, record=None)))


def _outcome(order: Order, surroundings: Surroundings, reporter: Reporter) -> RunOutcome:
    hold_back_libraries()
    try:
        surroundings.take_up(order)
    except UserError as error:
        return RunOutcome(order.spec, None, error=str(error), settings=error.settings)
    # at Ray's own handler of SIGTERM, the run would be recorded as failed
    with sigterm_interrupts(), _waiting_ends_with_interruption():
        return make_ordered_run(order, event_writer(reporter.event))


@contextmanager
def _waiting_ends_with_interruption() -> Iterator[None]:
    """Have a cancellation end what the main thread waits for, a lock or a process for example.

    Ray only marks Ctrl-C as received, which a thread notices when it computes. A signal that does
    nothing makes it look.
    """
    main = threading.main_thread().ident
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def wake() -> None:
        while received := os.read(reading, 1):
            if received[0] == signal.SIGINT and main is not None:
                signal.pthread_kill(main, signal.SIGUSR1)
        os.close(reading)

    handler_before = signal.signal(signal.SIGUSR1, lambda *_: None)
    descriptor_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=wake, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor_before)
        os.close(writing)
        signal.signal(signal.SIGUSR1, handler_before)


def _arrived(reference: Any) -> None:
    import ray

    try:
        ray.get(reference, timeout=SECONDS_FOR_THE_LAST)
    except ray.exceptions.RayError:
        return  # progress that nobody sees; the run is finished, and its record is written


def appears(path: Path, seconds: float) -> bool:
    """Whether a file is there, now or within some seconds.

    Its folder is read anew, because the client of a network folder remembers what was missing.
    """
    deadline = monotonic() + seconds
    while path.name not in _names_in(path.parent):
        if monotonic() > deadline:
            return False
        sleep(0.2)
    return True


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []

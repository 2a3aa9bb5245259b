"""Runs on a Ray cluster, or on this machine by a Ray of one's own: the side that asks for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from epi_bench.errors import UserError
from epi_bench.results.record.record_file import load_record
from epi_bench.runs.child import GRACE_SECONDS
from epi_bench.runs.messages import Message, outcome_from_json
from epi_bench.runs.order import Order
from epi_bench.runs.ray_resources import RaySettings, check_settings
from epi_bench.runs.ray_worker import Surroundings, appears
from epi_bench.runs.request import RunOutcome
from epi_bench.runs.worker import why_it_ended

COMMAND = (sys.executable, "-m", "epi_bench.runs.ray_driver")

SECONDS_TO_END = GRACE_SECONDS + 20
"""After which the process that talks to Ray is ended by force."""

SECONDS_FOR_A_RECORD = 90.0
"""That a network folder may take to show a record that another machine has written."""


class RayCluster:
    """A backend: each run is a task of Ray, with resources of its own.

    A process of its own talks to Ray, so that Ray's messages, signal handlers and variables stay
    out of this one. A run whose machine is lost is tried again on another; where it goes on is
    in its folder, which all machines must share.

    Args:
        address: Of a cluster, as ``ray.init`` takes it: ``"auto"`` for the one that this machine
            belongs to, ``"10.0.0.1:6379"``, ``"ray://..."``; ``None`` starts a Ray on this machine
            alone, which ends with the runs.
        cpus_per_run: CPUs that Ray sets aside for a run.
        gpus_per_run: GPUs that Ray sets aside for a run; with a fraction, several share one.
        timeout: Seconds that a run may take once it has begun, or ``None``.
        retries: How often a run is tried again whose machine or process was lost.

    Raises:
        UserError: If a value is out of range, or Ray is not installed.

    Example:
        .. code-block:: python

            with RayCluster("auto", gpus_per_run=1) as cluster:
                for position, message in cluster.run(orders):
                    ...
    """

    def __init__(
        self,
        address: str | None = None,
        cpus_per_run: float = 1,
        gpus_per_run: float = 0,
        timeout: float | None = None,
        retries: int = 3,
    ) -> None:
        self._settings = RaySettings(address, cpus_per_run, gpus_per_run, timeout, retries)
        check_settings(self._settings)
        if find_spec("ray") is None:
            raise UserError(
                'the backend ray needs Ray, which is not installed: pip install "epi-bench[ray]"'
            )
        self._process: subprocess.Popen[bytes] | None = None
        self._files = ExitStack()
        self._room: int | None = None

    @property
    def runs_at_a_time(self) -> int:
        """How many the machines hold that are there at the start."""
        while self._room is None:
            self._read()
        return self._room

    def __enter__(self) -> Self:
        self._errors = self._files.enter_context(tempfile.TemporaryFile())
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C in the terminal is for this process, not for Ray
        )
        self._write(asdict(self._settings))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def run(self, orders: Sequence[Order]) -> Generator[tuple[int, Message]]:
        """See :meth:`epi_bench.runs.backend.Backend.run`.

        Raises:
            UserError: If there is no such cluster, or it is lost.
        """
        if not orders:
            return
        surroundings = _surroundings(orders, self._settings.address is not None).to_json()
        for position, order in enumerate(orders):
            self._write(
                {
                    "position": position,
                    "title": f"{order.spec.label}, seed {order.spec.seed}",
                    "order": order.to_json().decode(),
                    "surroundings": surroundings,
                }
            )
        waiting = len(orders)
        try:
            while waiting:
                message = self._read()
                if "warning" in message:
                    yield 0, {"event": "warning", "arguments": [message["warning"]]}
                elif "position" in message:
                    known = _known(message, orders[message["position"]])
                    waiting -= isinstance(known, RunOutcome)
                    yield message["position"], known
        finally:
            if waiting:  # on Ctrl-C, or if nobody asks for the rest
                self._end()

    def _read(self) -> dict[str, Any]:
        """What the other process says next."""
        process = self._process
        assert process is not None  # noqa: S101  (started on entering)
        assert process.stdout is not None  # noqa: S101
        line = process.stdout.readline()
        if not line:
            raise UserError(f"the connection to Ray ended: {self._last_words(process)}")
        message: dict[str, Any] = json.loads(line)
        if "refused" in message:
            raise UserError(message["refused"], setting=message["settings"])
        self._room = message.get("room", self._room)
        return message

    def _write(self, content: dict[str, Any]) -> None:
        process = self._process
        assert process is not None  # noqa: S101
        assert process.stdin is not None  # noqa: S101
        with suppress(BrokenPipeError):  # it has ended; what it said last is read next
            process.stdin.write(json.dumps(content).encode() + b"\n")
            process.stdin.flush()

    def _end(self) -> None:
        """End the other process, which ends the runs under way, and Ray if it is our own."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.communicate(timeout=SECONDS_TO_END)  # closes its input: it is to end
        except subprocess.TimeoutExpired:
            pass  # below
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what is left of it and of Ray
            process.wait()
            self._files.close()

    def _last_words(self, process: subprocess.Popen[bytes]) -> str:
        code = process.wait()
        self._errors.seek(0)
        return why_it_ended(code, self._errors.read().decode("utf-8", "replace"))


def _known(message: dict[str, Any], order: Order) -> Message:
    """What the other process said of one run, with its record read from the file."""
    if "event" in message:
        event: Message = message["event"]
        return event
    if "error" in message:
        return RunOutcome(order.spec, None, error=message["error"])
    outcome = outcome_from_json(message["outcome"])
    path = outcome.path
    if path is None:
        return outcome
    outcome = replace(outcome, skipped=outcome.skipped and message["attempt"] == 1)
    if not appears(path, SECONDS_FOR_A_RECORD):
        error = f"the machine that made it wrote {path}, which does not appear here"
        return RunOutcome(order.spec, None, error=error)
    try:
        return replace(outcome, record=load_record(path))
    except UserError as error:
        return RunOutcome(order.spec, None, error=str(error))


def _surroundings(orders: Sequence[Order], marked: bool) -> Surroundings:
    """What runs must find elsewhere as they would find it here.

    Args:
        orders: For them.
        marked: Whether other machines make them, which must share the folder for results.
    """
    threads = None
    if any(order.spec.threads is None for order in orders):
        import torch

        threads = torch.get_num_threads()
    out = orders[0].request.workspace.out
    return Surroundings(str(Path.cwd()), _leave_mark(out) if marked else None, threads)


def _leave_mark(out: Path) -> str:
    """A file by which another machine sees whether its folder for results is the one of this."""
    folder = out.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    mark = folder / f".epi-bench-{uuid4().hex}"
    try:
        mark.touch()
    except OSError as error:
        raise UserError(
            f"cannot write results to {out}: {error.strerror}", setting="out"
        ) from error
    return str(mark)

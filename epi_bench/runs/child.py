"""A process that makes runs for another one: ``python -m epi_bench.runs.child``.

Orders come as lines of JSON on the standard input, the next one when the one before is done. Lines
of JSON go out: ``{"ready": true}`` once everything is imported; for each order its events, its
outcome as ``{"outcome": {...}}``, and ``{"ended": CODE}`` when its process is gone. Whatever else a
run prints, a plugin's own words for example, goes to the standard error output.

Importing torch and transformers takes seconds, so this process does it once and makes each run in
a copy of itself (a fork). A run so finds what it would find in a process of its own, whatever the
runs before it have done: registries, environment, random states, threads, memory. Where copies of
a process are not safe, beyond Linux, it makes one run itself and ends.

The end of the standard input means that whoever asked has gone, also if it was killed: the run gets
SIGTERM, at which it writes a checkpoint, and after some seconds SIGKILL.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from epi_bench.errors import UserError
from epi_bench.plugins.loading import load_plugin_files
from epi_bench.runs.interruption import exit_code, sigterm_interrupts
from epi_bench.runs.messages import event_writer, outcome_to_json
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.order import Order, order_from_json
from epi_bench.runs.request import RunOutcome
from epi_bench.tables import lasting_output
from epi_bench.task.files.selection import select_tasks
from epi_bench.task.harness_task import use_task_folder

GRACE_SECONDS = 10.0
"""What a run has between SIGTERM and SIGKILL, to write a checkpoint."""

COPIES = sys.platform == "linux" and not (
    any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()
)
"""Whether a run is made in a copy of the process: not where a library that is imported may have
called the driver of a GPU, whose connection no copy can use.
"""

NEEDED = (
    "epi_bench.runs.experiment",
    "epi_bench.runs.preparation",
    "epi_bench.runs.recording",
    "epi_bench.runs.stream_training",
    "epi_bench.training.accelerator",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
)
"""Modules that runs need and that take long to import."""

_LOOK_SECONDS = 0.05


def make_ordered_run(order: Order, observer: RunObserver) -> RunOutcome:
    """Register what the run names, and make it; a user error becomes the outcome."""
    from epi_bench.runs.launch import run_one
    from epi_bench.runs.run_lock import RunBusyError

    try:
        load_plugin_files(order.request.plugins)
        select_tasks([str(path) for path in order.request.task_files])
        if order.request.lm_eval_path is not None:
            use_task_folder(order.request.lm_eval_path)
        return run_one(order.spec, order.request, observer)
    except RunBusyError as error:
        return RunOutcome(order.spec, None, busy=error.owner)
    except UserError as error:
        return RunOutcome(order.spec, None, error=str(error), settings=error.settings)


def main() -> int:
    """Take orders until there are no more; the exit code."""
    write = _writer(_own_output())
    if COPIES:
        for module in NEEDED:
            importlib.import_module(module)
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    write({"ready": True})
    while line := sys.stdin.buffer.readline():
        if not COPIES:
            threading.Thread(target=_end_with_asker, daemon=True).start()
            return _make_run(line, write)
        asker = os.getpid()
        copy = os.fork()
        if copy == 0:
            _end_with(asker)
            return _make_run(line, write)
        write({"ended": _code_of(copy)})
    sys.stderr.flush()
    os._exit(0)  # there is nothing to clear up, and to take torch down takes a second


def _make_run(line: bytes, write: Callable[[dict[str, Any]], None]) -> int:
    """Make the run of an order, and tell what comes of it; the exit code."""
    try:
        with lasting_output(), sigterm_interrupts():  # a plugin may print what it likes
            outcome = make_ordered_run(order_from_json(line), event_writer(write))
            write({"outcome": outcome_to_json(outcome)})
    except KeyboardInterrupt as interruption:
        return exit_code(interruption)
    return 0


def _end_with(asker: int) -> None:
    """Have this copy end with the process that it is a copy of, and leave its orders alone."""
    from epi_bench.sandbox.kernel import PR_SET_PDEATHSIG, prctl

    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != asker:  # it was too late
        os.kill(os.getpid(), signal.SIGTERM)


def _code_of(copy: int) -> int:
    """Wait for a run's process; the code that it ended with, the negative number for a signal."""
    before = signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # the run has it too, and is to end first
    asker = select.poll()
    asker.register(sys.stdin.fileno(), 0)  # nothing but a hang-up is of interest
    killed_at = None
    while True:
        done, status = os.waitpid(copy, os.WNOHANG)
        if done:
            signal.signal(signal.SIGTERM, before)
            return os.waitstatus_to_exitcode(status)
        if killed_at is None and asker.poll(_LOOK_SECONDS * 1000):
            os.kill(copy, signal.SIGTERM)
            killed_at = time.monotonic() + GRACE_SECONDS
        elif killed_at is not None:
            if time.monotonic() > killed_at:
                os.kill(copy, signal.SIGKILL)
            time.sleep(_LOOK_SECONDS)


def _end_with_asker() -> None:
    """End this process when its standard input does."""
    while sys.stdin.buffer.read(1):
        continue
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(exit_code(KeyboardInterrupt()))


def _writer(channel: TextIO) -> Callable[[dict[str, Any]], None]:
    def write(message: dict[str, Any]) -> None:
        # nobody may be listening any more: that is no failure of the run, which gets SIGTERM then
        with suppress(BrokenPipeError):
            channel.write(json.dumps(message) + "\n")
            channel.flush()

    return write


def _own_output() -> TextIO:
    """The standard output for messages alone: what else is printed goes to the error output."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


if __name__ == "__main__":
    sys.exit(main())

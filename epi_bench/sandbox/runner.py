"""Running programs that a model wrote, against tests that it must not see."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from epi_bench.errors import UserError
from epi_bench.sandbox.limits import Limits
from epi_bench.sandbox.values import MalformedError, decode, encode

Outcome = Literal["passed", "wrong_answer", "error", "timeout", "crashed"]
Isolation = Literal["namespaces", "landlock"]

ISOLATIONS: tuple[Isolation, ...] = ("namespaces", "landlock")
"""The ways to shut a program off, the stronger one first."""

_LAUNCHER = Path(__file__).with_name("launcher.py")
_START_SECONDS = 20
_READY = b"ready\n"


@dataclass(frozen=True, slots=True)
class Program:
    """What a model wrote, and how it is tested.

    Attributes:
        source: Python source from the model; never trusted.
        names: Functions and classes that the program must define; the tests find them under
            these names.
        tests: Python source that raises an exception if the program is wrong. It runs in another
            process than the program, also isolated; what it passes to the program and gets back is
            plain values (numbers, texts, containers of them) or objects of the program.
        preparation: Python source that runs before ``tests`` in the same namespace, before the
            program's names are there; names that it defines too become the program's.
    """

    source: str
    names: tuple[str, ...]
    tests: str
    preparation: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a program.

    Attributes:
        outcome: ``passed``; ``wrong_answer``: a test's assertion failed; ``error``: the program or
            a test raised another exception, or a function is missing; ``timeout``: a time limit
            was reached; ``crashed``: the program's process ended, by itself or by a signal.
        detail: The reason in one line, for people; empty for ``passed``.
    """

    outcome: Outcome
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether every test passed."""
        return self.outcome == "passed"


class SandboxError(RuntimeError):
    """A sandbox failed for a reason that is not the program's; no verdict can be given."""


class CodeRunner:
    """Runs programs, each in a sandbox of its own.

    Having one is the permission to run code that a model wrote: make it only where the user has
    agreed. Can be used from several threads.

    Args:
        limits: What each program may use.
        isolation: How programs are shut off; ``None`` takes the strongest one that this system
            offers.

    Attributes:
        limits: As given.
        isolation: The one in use.

    Raises:
        UserError: If this system offers no sufficient isolation; it says what is missing.
    """

    def __init__(self, limits: Limits | None = None, isolation: Isolation | None = None) -> None:
        from epi_bench.sandbox.probe import choose_isolation

        self.limits = limits or Limits()
        self.isolation = choose_isolation(isolation)

    def run(self, program: Program) -> Verdict:
        """The verdict on one program.

        Raises:
            SandboxError: If the sandbox itself failed.
        """
        return run_program(program, self.isolation, self.limits)

    def run_many(self, programs: Sequence[Program], workers: int = 2) -> list[Verdict]:
        """The verdicts on many programs, in their order.

        Args:
            programs: What to run.
            workers: How many run at the same time, at least 1.

        Raises:
            SandboxError: If a sandbox itself failed.
        """
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(self.run, programs))


def run_program(program: Program, isolation: Isolation, limits: Limits) -> Verdict:
    """The verdict on a program under one kind of isolation, which is not probed before.

    Raises:
        SandboxError: If the sandbox cannot be had, or failed.
    """
    if sys.platform != "linux":
        raise UserError(
            f"model-written code can only be isolated on Linux, not on {sys.platform}: score this "
            "task on a Linux machine"
        )
    request = encode(
        (program.source, program.names, program.preparation, program.tests), _no_handles
    )
    command = [
        sys.executable,
        *("-s", "-S", "-P"),  # standard library only, nothing from the working folder
        str(_LAUNCHER),
        str(os.getpid()),
        isolation,
        *limits.to_arguments(),
    ]
    try:
        finished = subprocess.run(
            command,
            input=request,
            capture_output=True,
            timeout=limits.wall_seconds + _START_SECONDS,
            env=_environment(),
            cwd="/",
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        if (error.stdout or b"").startswith(_READY):
            return Verdict("timeout", "the tests did not end")
        raise SandboxError(f"no sandbox started within {_START_SECONDS} s") from error
    return _read_verdict(finished)


def _read_verdict(finished: subprocess.CompletedProcess[bytes]) -> Verdict:
    if not finished.stdout.startswith(_READY):
        reason = finished.stderr.decode(errors="replace").strip() or "it said nothing"
        raise SandboxError(
            f"the sandbox did not start (status {finished.returncode}): {reason[:500]}"
        )
    answer = finished.stdout.removeprefix(_READY)
    if not answer:
        return Verdict("crashed", "the tests reached a limit")
    try:
        outcome, detail = decode(answer, _no_handles)
    except (MalformedError, ValueError) as error:
        raise SandboxError(f"the sandbox gave no verdict: {error}") from error
    return Verdict(outcome, detail)


def _environment() -> dict[str, str]:
    """Nothing of the user's but where the interpreter's own libraries are.

    A fixed seed of string hashes makes the order of sets, and so the verdict, repeatable.
    """
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {"PYTHONHASHSEED": "0", **kept}


def _no_handles(value: object) -> int:
    raise TypeError(f"{type(value).__name__} is no plain value")

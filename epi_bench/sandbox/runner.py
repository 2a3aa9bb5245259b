"""Running programs that a model wrote, against tests that it must not see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from epi_bench.sandbox.values import decode, encode, no_handle

Outcome = Literal["passed", "wrong_answer", "error", "timeout", "crashed"]
Protection = Literal["namespaces", "landlock"]

PROTECTIONS: dict[Protection, str] = {
    "namespaces": "programs see no file, process, user or network of this system",
    "landlock": "programs open no file, process or connection of this system, but see what exists",
}
"""The ways to shut programs off, the stronger one first, and what they mean."""

_LAUNCHER = Path(__file__).with_name("launcher.py")
_START_SECONDS = 20
_READY = b"ready\n"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use; its tests, in a process of their own, may use as much.

    A program never gets a second process. The limit that ends a busy program is processor time,
    which depends less than wall time on what else the machine does.

    Attributes:
        wall_seconds: Time from the start of the program to the end of its tests.
        cpu_seconds: Processor time.
        memory_mebibytes: Address space, the interpreter's own 30 MiB or so included; at least 64.
        file_mebibytes: Size of a file, and of the working folder, which lies in memory; protection
            ``landlock`` has no working folder.
        message_mebibytes: Largest set of arguments or result passed between program and tests.

    Raises:
        ValueError: For a limit below 1, or less memory than an interpreter needs.
    """

    wall_seconds: int = 15
    cpu_seconds: int = 5
    memory_mebibytes: int = 512
    file_mebibytes: int = 16
    message_mebibytes: int = 8

    def __post_init__(self) -> None:
        for field in fields(self):
            minimum = 64 if field.name == "memory_mebibytes" else 1
            if getattr(self, field.name) < minimum:
                raise ValueError(f"{field.name} must be at least {minimum}")


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
        protection: How programs are shut off. ``None`` takes what the environment variable
            ``EPI_BENCH_SANDBOX`` names, or else the strongest that holds on this system.

    Attributes:
        limits: As given.
        protection: The one in use.

    Raises:
        UserError: If this system offers no protection that holds; it says what is missing.
    """

    def __init__(self, limits: Limits | None = None, protection: str | None = None) -> None:
        from epi_bench.sandbox.probe import choose_protection

        self.limits = limits or Limits()
        self.protection: Protection = choose_protection(protection)

    def run(self, program: Program) -> Verdict:
        """The verdict on one program.

        Raises:
            SandboxError: If the sandbox itself failed.
        """
        return run_program(program, self.protection, self.limits)

    def run_all(self, programs: Sequence[Program], workers: int | None = None) -> list[Verdict]:
        """The verdicts on many programs, in their order.

        Args:
            programs: What to run.
            workers: How many run at the same time; ``None``: one for each processor that this
                process may use.

        Raises:
            SandboxError: If a sandbox itself failed.
        """
        with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
            return list(pool.map(self.run, programs))


def run_program(program: Program, protection: Protection, limits: Limits) -> Verdict:
    """The verdict on a program under a protection that is not probed before (Linux only).

    Raises:
        SandboxError: If the sandbox cannot be had, or failed.
    """
    request = encode((program.source, program.names, program.preparation, program.tests), no_handle)
    setting = {"starter": os.getpid(), "mode": protection, "limits": asdict(limits)}
    # The standard library only: nothing from the user's packages or the working folder.
    command = [sys.executable, "-s", "-S", "-P", str(_LAUNCHER), json.dumps(setting)]
    try:
        finished = subprocess.run(
            command,
            input=request,
            capture_output=True,  # little: the program's own output goes nowhere
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
    outcome, detail = decode(answer, no_handle)
    return Verdict(outcome, detail)


def _environment() -> dict[str, str]:
    """Nothing of the user's but where the interpreter's own libraries are.

    A fixed seed of string hashes makes the order of sets, and so the verdict, repeatable.
    """
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {"PYTHONHASHSEED": "0", **kept}

"""A program to be judged, its limits, and the verdict on it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

Outcome = Literal["passed", "wrong_answer", "error", "timeout", "crashed"]


SandboxMode = Literal["namespaces", "landlock"]


SANDBOX_MODES: dict[SandboxMode, str] = {
    "namespaces": "programs see no file, process, user or network of this system",
    "landlock": "programs open no file, process or connection of this system, but see what exists",
}
"""The ways to shut programs off, the stronger one first, and what they mean."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use; its tests, in a process of their own, may use as much.

    A program never gets a second process. The limit that ends a busy program is processor time,
    which depends less than wall time on what else the machine does.

    Attributes:
        wall_seconds: Time from the start of the program to the end of its tests.
        cpu_seconds: Processor time.
        memory_mebibytes: Address space, the interpreter's own 30 MiB or so included; at least 64.
        file_mebibytes: Size of a file, and of the working folder, which lies in memory; mode
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

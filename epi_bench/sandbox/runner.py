"""Running programs that a model wrote, against tests that it must not see."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from epi_bench.sandbox.execution import run_program
from epi_bench.sandbox.program import (
    Limits,
    Program,
    SandboxMode,
    Verdict,
)


class CodeRunner:
    """Runs programs, each in a sandbox of its own.

    Having one is the permission to run code that a model wrote: make it only where the user has
    agreed. Can be used from several threads.

    Args:
        limits: What each program may use.
        mode: How programs are shut off. ``None`` takes what the environment variable
            ``EPI_BENCH_SANDBOX`` names, or else the strongest that holds on this system.

    Attributes:
        limits: As given.
        mode: The one in use.

    Raises:
        UserError: If this system offers no mode that holds; it says what is missing.
    """

    def __init__(self, limits: Limits | None = None, mode: str | None = None) -> None:
        from epi_bench.sandbox.probe import choose_mode

        self.limits = limits or Limits()
        self.mode: SandboxMode = choose_mode(mode)

    def run(self, program: Program) -> Verdict:
        """The verdict on one program.

        Raises:
            SandboxError: If the sandbox itself failed.
        """
        return run_program(program, self.mode, self.limits)

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

"""One program in processes of its own, from start to verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from epi_bench.sandbox.channel import READY
from epi_bench.sandbox.program import (
    Limits,
    Program,
    SandboxError,
    SandboxMode,
    Verdict,
)
from epi_bench.sandbox.values import decode, encode, no_handle

_LAUNCHER = Path(__file__).with_name("launcher.py")

_START_SECONDS = 20


def run_program(program: Program, mode: SandboxMode, limits: Limits) -> Verdict:
    """The verdict on a program in a mode that is not probed before (Linux only).

    Raises:
        SandboxError: If the sandbox cannot be had, or failed.
    """
    request = encode((program.source, program.names, program.preparation, program.tests), no_handle)
    setting = {"starter": os.getpid(), "mode": mode, "limits": asdict(limits)}
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
        if (error.stdout or b"").startswith(READY):
            return Verdict("timeout", "the tests did not end")
        raise SandboxError(f"no sandbox started within {_START_SECONDS} s") from error
    return _read_verdict(finished)


def _read_verdict(finished: subprocess.CompletedProcess[bytes]) -> Verdict:
    if not finished.stdout.startswith(READY):
        reason = finished.stderr.decode(errors="replace").strip() or "it said nothing"
        raise SandboxError(
            f"the sandbox did not start (status {finished.returncode}): {reason[:500]}"
        )
    answer = finished.stdout.removeprefix(READY)
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

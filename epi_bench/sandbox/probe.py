"""Finding out whether this system gives the protection that it should, by trying to break out."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from epi_bench.errors import UserError, unknown_name
from epi_bench.sandbox.execution import run_program
from epi_bench.sandbox.program import (
    SANDBOX_MODES,
    Limits,
    Program,
    SandboxError,
    SandboxMode,
)

_ENVIRONMENT_VARIABLE = "EPI_BENCH_SANDBOX"

_ATTEMPTS = '''
import ctypes, os, socket

def attempt(what, action):
    """Nothing if the action is refused, else what it was."""
    try:
        action()
    except OSError:
        return []
    return [what]

def fork():
    if os.fork() == 0:
        os._exit(0)

def fork_by_libc():
    if ctypes.CDLL(None).fork() < 0:
        raise OSError

def escapes(file, folder, process):
    """What of all that must not work does work."""
    return [
        *attempt("reading a file", lambda: open(file).read()),
        *attempt("changing a file", lambda: open(file, "r+").write("x")),
        *attempt("emptying a file", lambda: os.truncate(file, 0)),
        *attempt("changing permissions", lambda: os.chmod(file, 0o777)),
        *attempt("making a file", lambda: open(folder + "/made", "w")),
        *attempt("deleting a file", lambda: os.unlink(file)),
        *attempt("listing a folder", lambda: os.listdir(folder)),
        *attempt("looking into processes", lambda: open(f"/proc/{process}/maps").read()),
        *attempt("a second process", fork),
        *attempt("a second process", fork_by_libc),
        *attempt("another program", lambda: os.execv("/bin/true", ["true"])),
        *attempt("a signal to another process", lambda: os.kill(process, 0)),
        *attempt("a network socket", lambda: socket.socket(socket.AF_INET)),
        *attempt("a local socket", lambda: socket.socket(socket.AF_UNIX)),
    ]

def libraries():
    """A sum that needs parts of the standard library."""
    import bisect, collections, datetime, decimal, fractions, functools, hashlib, heapq, itertools
    import json, math, random, re, statistics, string, typing
    return math.comb(5, 2) + int(decimal.Decimal(1)) + len(re.findall("a", "banana"))
'''

_TESTS = """
found = escapes({file!r}, {folder!r}, {process})
assert not found, "it permits " + ", ".join(found)
assert libraries() == 14
"""

_REMEDY = (
    "it takes Linux on x86_64 or aarch64 with user namespaces (or root, and Linux 5.12) or with "
    "Landlock (Linux 6.2); switch on user namespaces (sysctl user.max_user_namespaces=10000, on "
    "Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0), start a container with "
    "--security-opt seccomp=unconfined, or leave tasks that run code out"
)


def choose_mode(wanted: str | None = None) -> SandboxMode:
    """The strongest mode that holds on this system, tried out.

    Args:
        wanted: Try this one alone; ``None`` takes the environment's choice if there is one.

    Raises:
        UserError: If it is unknown or none holds; the message says why and what to do.
    """
    if sys.platform != "linux":
        raise UserError(
            f"code that a model wrote can only be shut off on Linux, not on {sys.platform}: run "
            "this task in a Linux machine or container, or leave it out"
        )
    wanted = wanted or os.environ.get(_ENVIRONMENT_VARIABLE)
    if wanted and wanted not in SANDBOX_MODES:
        raise unknown_name("sandbox mode", wanted, SANDBOX_MODES)
    problems = []
    for mode in SANDBOX_MODES:
        if wanted in (None, "", mode):
            problem = find_problem(mode)
            if problem is None:
                return mode
            problems.append(f"{mode}: {problem}")
    raise UserError(
        f"no safe way to run code that a model wrote on this system ({'; '.join(problems)}): "
        f"{_REMEDY}"
    )


def find_problem(mode: SandboxMode) -> str | None:
    """Why a mode does not hold on this system; ``None`` if it does.

    A program tries to get at files, processes and sockets.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "file"
        file.write_text("secret", encoding="utf-8")
        file.chmod(0o666)
        Path(folder).chmod(0o777)
        tests = _TESTS.format(file=str(file), folder=folder, process=os.getpid())
        program = Program(_ATTEMPTS, ("escapes", "libraries"), tests)
        try:
            verdict = run_program(program, mode, Limits())
        except SandboxError as error:
            return str(error)
    return None if verdict.passed else verdict.detail

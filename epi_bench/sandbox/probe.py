"""Finding out how this system can isolate a program, by trying to break out."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from epi_bench.errors import UserError, unknown_name
from epi_bench.sandbox.limits import Limits
from epi_bench.sandbox.runner import (
    ISOLATIONS,
    Isolation,
    Program,
    SandboxError,
    run_program,
)

_ESCAPES = '''
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

def connected(family):
    return socket.socket(family, socket.SOCK_STREAM)

def escapes(file, folder, process):
    """What of all that must not work does work."""
    return [
        *attempt("reading a file", lambda: open(file).read()),
        *attempt("changing a file", lambda: open(file, "r+").write("x")),
        *attempt("making a file", lambda: open(folder + "/made", "w")),
        *attempt("deleting a file", lambda: os.unlink(file)),
        *attempt("listing a folder", lambda: os.listdir(folder)),
        *attempt("changing permissions", lambda: os.chmod(file, 0o777)),
        *attempt("a second process", fork),
        *attempt("a second process", fork_by_libc),
        *attempt("another program", lambda: os.execv("/bin/true", ["true"])),
        *attempt("a signal to another process", lambda: os.kill(process, 0)),
        *attempt("a network socket", lambda: connected(socket.AF_INET)),
        *attempt("a local socket", lambda: connected(socket.AF_UNIX)),
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
    "needs Linux 5.13 or newer on x86_64 or aarch64, with user namespaces (or root) or Landlock; "
    "switch on user namespaces (sysctl user.max_user_namespaces=10000, and on Ubuntu "
    "kernel.apparmor_restrict_unprivileged_userns=0), start a container with "
    "--security-opt seccomp=unconfined, or leave tasks that run code out"
)


def choose_isolation(wanted: Isolation | None = None) -> Isolation:
    """The strongest isolation that holds on this system.

    Args:
        wanted: Try this one alone.

    Raises:
        UserError: If none holds; it says why and what to do.
    """
    if sys.platform != "linux":
        raise UserError(
            f"code that a model wrote can only be run isolated on Linux, not on {sys.platform}: "
            "score this task on a Linux machine, or leave it out"
        )
    if wanted is not None and wanted not in ISOLATIONS:
        raise unknown_name("isolation", wanted, ISOLATIONS)
    problems = []
    for isolation in [wanted] if wanted else ISOLATIONS:
        problem = find_problem(isolation)
        if problem is None:
            return isolation
        problems.append(f"{isolation}: {problem}")
    raise UserError(
        f"no safe way to run code that a model wrote on this system ({'; '.join(problems)}): "
        f"{_REMEDY}"
    )


def find_problem(isolation: Isolation) -> str | None:
    """Why an isolation does not hold on this system; ``None`` if it does.

    A program tries to get out: to files, processes and sockets.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "file"
        file.write_text("secret", encoding="utf-8")
        file.chmod(0o666)
        Path(folder).chmod(0o777)
        tests = _TESTS.format(file=str(file), folder=folder, process=os.getpid())
        try:
            verdict = run_program(
                Program(_ESCAPES, ("escapes", "libraries"), tests), isolation, Limits()
            )
        except SandboxError as error:
            return str(error)
    return None if verdict.passed else verdict.detail

"""What confines every process of a sandbox, whichever way it is shut off from the system."""

from __future__ import annotations

import os
import resource
import sys

from epi_bench.sandbox import linux, seccomp
from epi_bench.sandbox.limits import MEBIBYTE, Limits

_UNUSED_IDS_FROM = 1_900_000_000
"""Between the ids that systemd gives to containers and those that are not valid everywhere."""

_NOBODY = 65534


def library_folders() -> list[str]:
    """What a program may read: Python's standard library and the shared libraries below it."""
    system = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
    python = (*sys.path, os.path.join(sys.base_exec_prefix, "lib"))
    folders: list[str] = []
    for path in sorted({os.path.realpath(name) for name in (*system, *python)}):
        below_another = any(path.startswith(f"{folder}/") for folder in folders)
        if os.path.isdir(path) and not below_another:
            folders.append(path)
    return folders


def limit_resources(limits: Limits) -> None:
    """Set the limits that the kernel keeps for each process."""
    for kind, value in (
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_AS, limits.memory_mebibytes * MEBIBYTE),
        (resource.RLIMIT_FSIZE, limits.file_mebibytes * MEBIBYTE),
        (resource.RLIMIT_NPROC, limits.threads + 2),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        _, hardest = resource.getrlimit(kind)
        if hardest != resource.RLIM_INFINITY:
            value = min(value, hardest)
        resource.setrlimit(kind, (value, value))


def become_unused_user(number: int) -> None:
    """Take a user id that owns nothing, so that limits bind and no file is writable.

    Args:
        number: Differs for sandboxes that exist at the same time.
    """
    try:
        _become_user(_UNUSED_IDS_FROM + number)
    except OSError:  # inside a container that has fewer ids
        _become_user(_NOBODY)


def _become_user(identity: int) -> None:
    os.setgroups([])
    os.setresgid(identity, identity, identity)
    os.setresuid(identity, identity, identity)


def give_up_rights(parent: int) -> None:
    """Drop every capability for ever, become unreadable to others, and die with the parent.

    Args:
        parent: What ``os.getppid()`` says as long as the parent lives.
    """
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.drop_capabilities()
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    # Last: a change of user or capabilities resets it.
    linux.prctl(linux.PR_SET_PDEATHSIG, linux.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def filter_calls(*, read_only: bool) -> None:
    """Refuse the system calls that no program needs; the last step, it forbids the others."""
    seccomp.install(read_only=read_only)

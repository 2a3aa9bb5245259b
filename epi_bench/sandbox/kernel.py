"""The calls of the Linux kernel that Python 3.11 has no function for."""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_MNT_DETACH = 0x2
_MOUNT_ATTR_READ_ONLY = 0x1 | 0x2 | 0x4  # and no set-user-id programs, no devices
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_CAPABILITY_VERSION_3 = 0x20080522
_SYS_MOUNT_SETATTR = 442  # on every architecture
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def unshare(flags: int) -> None:
    """Leave the shared namespaces that ``flags`` name; a new pid namespace is for children only."""
    call("unshare", flags)


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount ``source`` on ``target``."""
    call(
        "mount",
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )


def make_read_only(path: str, *, recursive: bool) -> None:
    """Make a mount read-only; ``recursive``: those below it too. Needs Linux 5.12."""
    request = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_READ_ONLY, 0, 0, 0)
    call(
        "syscall",
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        _AT_FDCWD,
        path.encode(),
        _AT_RECURSIVE if recursive else 0,
        ctypes.byref(request),
        ctypes.c_size_t(ctypes.sizeof(request)),
    )


def pivot_root(new_root: str, put_old: str) -> None:
    """Make ``new_root`` the root of the mount namespace and mount the old one on ``put_old``."""
    number = ctypes.c_long(_SYS_PIVOT_ROOT[os.uname().machine])
    call("syscall", number, new_root.encode(), put_old.encode())


def unmount(target: str) -> None:
    """Take a mount and those below it out of the namespace."""
    call("umount2", target.encode(), _MNT_DETACH)


def prctl(option: int, argument: int, third: Any = 0) -> None:
    """Set an attribute of this process."""
    call("prctl", option, ctypes.c_ulong(argument), third, ctypes.c_ulong(0), ctypes.c_ulong(0))


def drop_capabilities() -> None:
    """Give up every capability; with ``PR_SET_NO_NEW_PRIVS`` for ever."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))


def call(name: str, *arguments: Any) -> int:
    """What a function of the C library returns.

    Raises:
        OSError: If that is negative.
    """
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    function.restype = ctypes.c_long if name == "syscall" else ctypes.c_int
    result = function(*arguments)
    if result < 0:
        error = ctypes.get_errno()
        what = next((a.decode() for a in arguments[1:] if isinstance(a, bytes)), "")
        raise OSError(error, f"{name} {what}: {os.strerror(error)}")
    return int(result)

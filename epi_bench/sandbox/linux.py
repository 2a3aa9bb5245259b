"""The calls of the Linux kernel that Python has no function for."""

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
MNT_DETACH = 0x2

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2

SIGKILL = 9

_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_CAPABILITY_VERSION_3 = 0x20080522

# Calls without a wrapper in the C library. Their numbers are the same on every architecture,
# but for pivot_root.
_SYS_MOUNT_SETATTR = 442
_SYS_LANDLOCK_CREATE_RULESET = 444
_SYS_LANDLOCK_ADD_RULE = 445
_SYS_LANDLOCK_RESTRICT_SELF = 446
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def architecture() -> str:
    """The machine's architecture as the kernel names it, such as ``x86_64``."""
    return os.uname().machine


def unshare(flags: int) -> None:
    """Leave the shared namespaces that ``flags`` name; a new pid namespace is for children only."""
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount ``source`` on ``target``."""
    result = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _check(result, f"mount {target}")


def set_mount_attributes(path: str, attributes: int, *, recursive: bool) -> None:
    """Add attributes such as ``MOUNT_ATTR_RDONLY`` to a mount; ``recursive``: to those below too.

    Needs Linux 5.12.
    """
    request = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    result = _libc.syscall(
        _SYS_MOUNT_SETATTR,
        _AT_FDCWD,
        path.encode(),
        _AT_RECURSIVE if recursive else 0,
        ctypes.byref(request),
        ctypes.c_size_t(ctypes.sizeof(request)),
    )
    _check(result, f"mount_setattr {path}")


def pivot_root(new_root: str, put_old: str) -> None:
    """Make ``new_root`` the root of the mount namespace and mount the old one on ``put_old``."""
    number = _SYS_PIVOT_ROOT[architecture()]
    _check(_libc.syscall(number, new_root.encode(), put_old.encode()), "pivot_root")


def unmount(target: str) -> None:
    """Take a mount and those below it out of the namespace."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def prctl(option: int, argument: int | Any, third: Any = 0) -> None:
    """Set an attribute of this process."""
    first = ctypes.c_ulong(argument)
    _check(_libc.prctl(option, first, third, ctypes.c_ulong(0), ctypes.c_ulong(0)), "prctl")


def drop_capabilities() -> None:
    """Give up every capability; with ``PR_SET_NO_NEW_PRIVS`` for ever."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(sets)), "capset")


def landlock_version() -> int:
    """Version of Landlock's interface that the kernel offers; 0 if none."""
    version = _libc.syscall(
        _SYS_LANDLOCK_CREATE_RULESET,
        None,
        ctypes.c_size_t(0),
        ctypes.c_uint32(_LANDLOCK_CREATE_RULESET_VERSION),
    )
    return max(int(version), 0)


class LandlockRule(ctypes.Structure):
    """What is allowed below a path (``struct landlock_path_beneath_attr``)."""

    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def landlock(handled_access: int, allowed: dict[str, int]) -> None:
    """Forbid this process ``handled_access`` to files, but for what is allowed below some paths.

    Args:
        handled_access: Bits ``LANDLOCK_ACCESS_FS_*``.
        allowed: Path to bits.
    """
    attributes = ctypes.c_uint64(handled_access)
    rules = _libc.syscall(
        _SYS_LANDLOCK_CREATE_RULESET,
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
        ctypes.c_uint32(0),
    )
    _check(rules, "landlock_create_ruleset")
    for path, access in allowed.items():
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = LandlockRule(access, descriptor)
        result = _libc.syscall(
            _SYS_LANDLOCK_ADD_RULE,
            rules,
            _LANDLOCK_RULE_PATH_BENEATH,
            ctypes.byref(rule),
            ctypes.c_uint32(0),
        )
        _check(result, f"landlock_add_rule {path}")
        os.close(descriptor)
    result = _libc.syscall(_SYS_LANDLOCK_RESTRICT_SELF, rules, ctypes.c_uint32(0))
    _check(result, "landlock_restrict_self")
    os.close(rules)


def _check(result: int, what: str) -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")

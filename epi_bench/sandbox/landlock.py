"""Forbidding files with Landlock, where namespaces are not to be had.

Works as any user on Linux 6.2 and newer, also in most containers. A confined process opens no file
but those it is told of, and changes no file at all.
"""

from __future__ import annotations

import ctypes
import errno
import os

from epi_bench.sandbox import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# From linux/landlock.h; the numbers of the calls are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_ALL_ACCESS = (1 << 15) - 1  # LANDLOCK_ACCESS_FS_EXECUTE ... _TRUNCATE
_VERSION_WITH_TRUNCATE = 3


class _Rule(ctypes.Structure):
    """``struct landlock_path_beneath_attr``."""

    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def forbid_files(readable: Iterable[str]) -> None:
    """Forbid this process every file for ever but for reading below some folders.

    Args:
        readable: Folders.

    Raises:
        OSError: If the kernel has no Landlock that covers every way to change a file.
    """
    version = kernel.call(
        "syscall", ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), _RULESET_VERSION
    )
    if version < _VERSION_WITH_TRUNCATE:
        raise OSError(errno.ENOSYS, "Landlock of Linux 6.2 or newer is needed")
    handled = ctypes.c_uint64(_ALL_ACCESS)
    rules = kernel.call(
        "syscall",
        ctypes.c_long(_CREATE_RULESET),
        ctypes.byref(handled),
        ctypes.c_size_t(ctypes.sizeof(handled)),
        0,
    )
    for folder in readable:
        descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        rule = _Rule(_READ_FILE | _READ_FOLDER, descriptor)
        arguments = (rules, _RULE_PATH_BENEATH, ctypes.byref(rule), 0)
        kernel.call("syscall", ctypes.c_long(_ADD_RULE), *arguments)
        os.close(descriptor)
    kernel.call("syscall", ctypes.c_long(_RESTRICT_SELF), rules, 0)
    os.close(rules)

"""A filter of system calls: one process, no network, no way to other processes.

What a filter refuses fails with an error number, so an honest program sees an ``OSError``.
Everything else is allowed: the filter is a second wall, not the only one.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from epi_bench.sandbox.linux import (
    PR_SET_PDEATHSIG,
    PR_SET_SECCOMP,
    SECCOMP_MODE_FILTER,
    architecture,
    prctl,
)
from epi_bench.sandbox.system_calls import FILE_CHANGES, REFUSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_NEW_PROCESS = ("clone", "fork", "vfork")
_CLONE_THREAD = 0x00010000
_OPEN_FLAGS = {"open": 1, "openat": 2}  # which argument holds them
_OPEN_FOR_CHANGE = 0o1 | 0o2 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
_SOCKET_TYPE = 0xF
_SOCK_STREAM = 1
_REFUSED_REQUESTS = {
    # Call: which argument holds the request, and those that could send signals to other processes,
    # type into a terminal, or let the program outlive the tests.
    "fcntl": (1, (8, 10, 15)),  # F_SETOWN, F_SETSIG, F_SETOWN_EX
    "ioctl": (1, (0x5412, 0x541C, 0x8901, 0x8902)),  # TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP
    "prctl": (0, (PR_SET_PDEATHSIG,)),
}
_ALL_BITS = 0xFFFFFFFF
_X32_BIT = 0x40000000  # calls of the x32 interface of x86_64 have other numbers


# Classic BPF (linux/filter.h) over struct seccomp_data (linux/seccomp.h).
_LOAD_WORD = 0x20
_AND = 0x54
_JUMP_IF_EQUAL = 0x15
_JUMP_IF_AT_LEAST = 0x35
_JUMP_IF_ANY_BIT = 0x45
_RETURN = 0x06
_OFFSET_NUMBER = 0
_OFFSET_ARCHITECTURE = 4
_OFFSET_ARGUMENTS = 16
_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERROR = 0x00050000

_Instruction = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def install(*, read_only: bool) -> None:
    """Filter this process's system calls from now on; it cannot be undone.

    Refused: new processes and programs (threads are allowed), sockets but connected pairs, signals
    to any process, tracing, mounting, namespaces, keys, shared memory, changes of other processes'
    limits and priorities, and the parts of the kernel where most break-outs begin.

    Args:
        read_only: Whether changes to files are refused too.

    Raises:
        OSError: If the filter cannot be had.
    """
    if architecture() not in _ARCHITECTURES:
        raise OSError(f"the system calls of {architecture()} are not known here")
    instructions = build_filter(architecture(), read_only=read_only)
    packed = b"".join(struct.pack("<HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    program = _Program(len(instructions), ctypes.addressof(buffer))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program))


def build_filter(machine: str, *, read_only: bool) -> list[_Instruction]:
    """The filter as instructions: code, jump if true, jump if false, operand."""
    audit, column = _ARCHITECTURES[machine]
    filtered: list[_Instruction] = [
        (_LOAD_WORD, 0, 0, _OFFSET_ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD_WORD, 0, 0, _OFFSET_NUMBER),
        (_JUMP_IF_AT_LEAST, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _ERROR | errno.ENOSYS),
    ]
    for name, numbers in {**REFUSED, **(FILE_CHANGES if read_only else {})}.items():
        number = numbers[column]
        if number is None:
            continue
        rule = list(_rule(name, read_only))
        filtered += [(_JUMP_IF_EQUAL, 0, len(rule), number), *rule]
    return [*filtered, (_RETURN, 0, 0, _ALLOW)]


def _rule(name: str, read_only: bool) -> Iterable[_Instruction]:
    """What happens to a call; each way through it ends in a return."""
    if name in _NEW_PROCESS:
        # As if the limit of processes were reached.
        if name == "clone":
            yield from _allow_if(argument=0, mask=_CLONE_THREAD, value=_CLONE_THREAD)
        yield (_RETURN, 0, 0, _ERROR | errno.EAGAIN)
    elif name in ("clone3", "openat2"):
        # Their arguments lie in memory, out of a filter's sight; the C library uses the old calls.
        yield (_RETURN, 0, 0, _ERROR | errno.ENOSYS)
    elif name in _OPEN_FLAGS:
        if read_only:
            yield (_LOAD_WORD, 0, 0, _OFFSET_ARGUMENTS + 8 * _OPEN_FLAGS[name])
            yield (_JUMP_IF_ANY_BIT, 0, 1, _OPEN_FOR_CHANGE)
            yield (_RETURN, 0, 0, _ERROR | errno.EROFS)
        yield (_RETURN, 0, 0, _ALLOW)
    elif name in _REFUSED_REQUESTS:
        argument, requests = _REFUSED_REQUESTS[name]
        yield (_LOAD_WORD, 0, 0, _OFFSET_ARGUMENTS + 8 * argument)
        for request in requests:
            yield (_JUMP_IF_EQUAL, 0, 1, request)
            yield (_RETURN, 0, 0, _ERROR | errno.EPERM)
        yield (_RETURN, 0, 0, _ALLOW)
    else:
        if name == "prlimit64":
            yield from _allow_if(argument=0, mask=_ALL_BITS, value=0)  # 0: this process
        if name == "socketpair":
            # A pair of datagram sockets could send to any local socket that has a path.
            yield from _allow_if(argument=1, mask=_SOCKET_TYPE, value=_SOCK_STREAM)
        yield (_RETURN, 0, 0, _ERROR | errno.EPERM)


def _allow_if(argument: int, mask: int, value: int) -> list[_Instruction]:
    return [
        (_LOAD_WORD, 0, 0, _OFFSET_ARGUMENTS + 8 * argument),
        (_AND, 0, 0, mask),
        (_JUMP_IF_EQUAL, 0, 1, value),
        (_RETURN, 0, 0, _ALLOW),
    ]

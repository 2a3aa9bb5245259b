"""A filter of system calls: one process, no sockets, no way to other processes.

A refused call fails with an error number, so an honest program sees an ``OSError``. Everything
else is allowed: with namespaces the filter is a second wall; without them it is what keeps a
program from starting, signalling or tracing processes and from talking to anyone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from epi_bench.sandbox import kernel

_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # Numbers on x86_64 (asm/unistd_64.h) and aarch64 (asm-generic/unistd.h).
    # New processes and programs:
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    # Other processes:
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # Anyone else:
    "socket": (41, 198),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    # What files are, other than their content, which Landlock does not cover:
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    # Parts of the kernel where most break-outs begin:
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "modify_ldt": (154, None),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "personality": (135, 92),
}
_CLONE = (56, 220)  # refused but for threads
_CLONE3 = (435, 435)  # its arguments lie out of a filter's sight; the C library falls back
_FCNTL = (72, 25)
_FCNTL_REFUSED = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: signals to others
_SOCKETPAIR = (53, 199)  # allowed for streams, which are connected to nobody else
_PRCTL = (157, 167)
_PRLIMIT = (302, 261)  # allowed for this process, number 0
_ALL_BITS = 0xFFFFFFFF
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_CLONE_THREAD = 0x00010000
_SOCK_TYPE_MASK, _SOCK_STREAM = 0xF, 1
_X32_BIT = 0x40000000  # calls of the x32 interface of x86_64 have other numbers
_SECCOMP_MODE_FILTER = 2

# Classic BPF (linux/filter.h) over struct seccomp_data (linux/seccomp.h).
_LOAD_WORD, _AND, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_ALLOW, _KILL_PROCESS, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand."""


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def install_filter() -> None:
    """Filter this process's system calls from now on; it cannot be undone.

    Raises:
        OSError: If the filter cannot be had.
    """
    instructions = build_filter(os.uname().machine)
    packed = b"".join(struct.pack("<HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    program = _Program(len(instructions), ctypes.addressof(buffer))
    kernel.prctl(kernel.PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))


def build_filter(machine: str) -> list[Instruction]:
    """The filter for an architecture, ``x86_64`` or ``aarch64``.

    Raises:
        OSError: For another one.
    """
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"the system calls of {machine} are not known here")
    audit, column = _ARCHITECTURES[machine]
    refused = [numbers[column] for numbers in _REFUSED.values()]
    rules: list[tuple[int, list[Instruction]]] = [
        *((number, [_fail(errno.EPERM)]) for number in refused if number is not None),
        (_CLONE[column], [*_allow_if(0, _CLONE_THREAD, _CLONE_THREAD), _fail(errno.EAGAIN)]),
        (_CLONE3[column], [_fail(errno.ENOSYS)]),
        (_SOCKETPAIR[column], [*_allow_if(1, _SOCK_TYPE_MASK, _SOCK_STREAM), _fail(errno.EPERM)]),
        (_PRLIMIT[column], [*_allow_if(0, _ALL_BITS, 0), _fail(errno.EPERM)]),
        (_FCNTL[column], _fail_if(1, _FCNTL_REFUSED)),
        (_PRCTL[column], _fail_if(0, (kernel.PR_SET_PDEATHSIG, kernel.PR_SET_DUMPABLE))),
    ]
    filtered: list[Instruction] = [
        (_LOAD_WORD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD_WORD, 0, 0, _NUMBER),
        (_IF_AT_LEAST, 0, 1, _X32_BIT),
        _fail(errno.ENOSYS),
    ]
    for number, rule in rules:
        filtered += [(_IF_EQUAL, 0, len(rule), number), *rule]
    return [*filtered, (_RETURN, 0, 0, _ALLOW)]


def _fail(error: int) -> Instruction:
    return (_RETURN, 0, 0, _ERROR | error)


def _allow_if(argument: int, mask: int, value: int) -> list[Instruction]:
    return [
        (_LOAD_WORD, 0, 0, _ARGUMENTS + 8 * argument),
        (_AND, 0, 0, mask),
        (_IF_EQUAL, 0, 1, value),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _fail_if(argument: int, values: tuple[int, ...]) -> list[Instruction]:
    tests = [step for v in values for step in ((_IF_EQUAL, 0, 1, v), _fail(errno.EPERM))]
    return [(_LOAD_WORD, 0, 0, _ARGUMENTS + 8 * argument), *tests, (_RETURN, 0, 0, _ALLOW)]

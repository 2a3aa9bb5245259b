"""Isolation by Landlock and a filter of system calls, where namespaces are not to be had.

Works as any user on Linux 5.13 and newer, also in most containers. The program cannot open any
file but those of the standard library, changes no file at all (there is no working folder), has no
network and no second process. What namespaces hide and this does not: that a file exists, its size
and times, and the list of processes' numbers.
"""

from __future__ import annotations

import os

from epi_bench.sandbox import confinement, linux
from epi_bench.sandbox.limits import Limits

_READ_FILE = 1 << 2
_READ_FOLDER = 1 << 3
_ALL_OF_VERSION_1 = (1 << 13) - 1  # LANDLOCK_ACCESS_FS_EXECUTE ... _MAKE_SYM


class LandlockIsolation:
    """Confines the tests and the program where they are."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._libraries = confinement.library_folders()

    def enter(self) -> None:
        """In the launcher: become the parent of what a dying child leaves behind."""
        if linux.landlock_version() == 0:
            raise OSError("Landlock is not enabled in this kernel")
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)

    def seclude(self) -> None:
        """Nothing to build: the file system stays and is forbidden in :meth:`confine`."""
        os.chdir("/")

    def before_program(self) -> None:
        """Nothing to do: the filter keeps the program from other processes."""

    def confine(self, parent: int) -> None:
        """In each process inside: the limits of this sandbox, for ever.

        Args:
            parent: Number of the process that started this one.
        """
        confinement.limit_resources(self._limits)
        confinement.give_up_rights(parent)
        allowed = dict.fromkeys(self._libraries, _READ_FILE | _READ_FOLDER)
        linux.landlock(_ALL_OF_VERSION_1, allowed)
        confinement.filter_calls(read_only=True)

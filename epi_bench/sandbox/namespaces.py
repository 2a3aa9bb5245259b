"""Isolation by namespaces: the program sees no file, process, network or user of the system.

Works as root, and as an ordinary user where the system allows user namespaces. The new root holds
the standard library, read-only, and an empty working folder in memory, limited in size.
"""

from __future__ import annotations

import errno
import os

from epi_bench.sandbox import confinement, linux
from epi_bench.sandbox.limits import Limits

_OWN_NAMESPACES = (
    linux.CLONE_NEWNS
    | linux.CLONE_NEWPID
    | linux.CLONE_NEWNET
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUTS
    | linux.CLONE_NEWCGROUP
)
_MOUNT_POINT = "/tmp"  # any folder that exists everywhere; what it holds is not touched
_WORKING_FOLDER = "/tmp"
_HIDDEN = linux.MS_NOSUID | linux.MS_NODEV


class NamespaceIsolation:
    """Puts the tests into namespaces of their own, and the program into a pid namespace below."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._is_privileged = False
        self._number = os.getpid()
        self._libraries = confinement.library_folders()

    def enter(self) -> None:
        """In the launcher: leave the system's namespaces; takes effect on its children too."""
        if os.geteuid() == 0:
            try:
                linux.unshare(_OWN_NAMESPACES)
                self._is_privileged = True
                return
            except OSError as error:
                if error.errno != errno.EPERM:
                    raise
        self._enter_as_user()

    def _enter_as_user(self) -> None:
        user, group = os.geteuid(), os.getegid()
        linux.unshare(_OWN_NAMESPACES | linux.CLONE_NEWUSER)
        for name, content in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(content)

    def seclude(self) -> None:
        """In the first process inside: build the new root and go there."""
        linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
        linux.mount("tmpfs", _MOUNT_POINT, "tmpfs", _HIDDEN, "size=1m,mode=0755")
        os.chdir(_MOUNT_POINT)
        os.mkdir("old")
        linux.pivot_root(".", "old")
        os.chdir("/")
        self._mount_libraries()
        self._mount_working_folder()
        linux.unmount("/old")
        os.rmdir("/old")
        linux.set_mount_attributes("/", linux.MOUNT_ATTR_RDONLY, recursive=False)

    def _mount_libraries(self) -> None:
        attributes = linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV
        for folder in self._libraries:
            os.makedirs(folder, exist_ok=True)
            linux.mount(f"/old{folder}", folder, None, linux.MS_BIND | linux.MS_REC)
            linux.set_mount_attributes(folder, attributes, recursive=True)
        for name in ("lib", "lib64"):
            link = f"/{name}"
            if not os.path.lexists(link) and os.path.islink(f"/old{link}"):
                os.symlink(os.readlink(f"/old{link}"), link)

    def _mount_working_folder(self) -> None:
        size = f"size={self._limits.file_mebibytes}m,nr_inodes=1024,mode=1777"
        os.makedirs(_WORKING_FOLDER, exist_ok=True)
        linux.mount("tmpfs", _WORKING_FOLDER, "tmpfs", _HIDDEN, size)

    def before_program(self) -> None:
        """The next child, which runs the program, sees no process but its own."""
        linux.unshare(linux.CLONE_NEWPID)

    def confine(self, parent: int) -> None:
        """In each process inside: the limits of this sandbox, for ever.

        Args:
            parent: Number of the process that started this one, outside; not visible here.
        """
        del parent
        confinement.limit_resources(self._limits)
        if self._is_privileged:
            confinement.become_unused_user(self._number)
        confinement.give_up_rights(parent=0)  # what a pid namespace shows for a parent outside
        confinement.filter_calls(read_only=False)
        os.chdir(_WORKING_FOLDER)

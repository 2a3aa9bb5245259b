"""What shuts the processes of a sandbox off from the system.

Namespaces hide files, processes, users and the network; they work as root, and as an ordinary user
where the system allows user namespaces. Resource limits, dropped rights and a filter of system
calls hold with and without them.
"""

# pathlib would add to the start-up time of each sandbox.
# ruff: noqa: PTH102, PTH103, PTH106, PTH112, PTH114, PTH115, PTH123, PTH211
from __future__ import annotations

import errno
import os
import resource
import sys

from epi_bench.sandbox import kernel

MEBIBYTE = 2**20
_OWN_NAMESPACES = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)
_SIGKILL = 9
_WORKING_FOLDER = "/tmp"  # of the sandbox
_MOUNT_POINT = "/tmp"  # any folder that exists everywhere; what it holds is not touched
_NOBODY = 65534
_UNUSED_IDS_FROM = 1_900_000_000
"""Between the ids that systemd gives to containers and those that are not valid everywhere."""


def enter_namespaces() -> bool:
    """Leave the system's namespaces; takes effect on children too.

    Returns:
        Whether this process still is the system's root, who can take any user id.
    """
    if os.geteuid() == 0:
        try:
            kernel.unshare(_OWN_NAMESPACES)
            return True
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(_OWN_NAMESPACES | kernel.CLONE_NEWUSER)
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(content)
    return False


def replace_file_system(file_mebibytes: int) -> None:
    """Go to a new root: the standard library, read-only, and an empty working folder in memory."""
    hidden = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", _MOUNT_POINT, "tmpfs", hidden, "size=1m,mode=0755")
    os.chdir(_MOUNT_POINT)
    os.mkdir("old")
    kernel.pivot_root(".", "old")
    os.chdir("/")
    for folder in library_folders("/old"):
        os.makedirs(folder, exist_ok=True)
        kernel.mount(f"/old{folder}", folder, None, kernel.MS_BIND | kernel.MS_REC)
        kernel.make_read_only(folder, recursive=True)
    for link in ("/lib", "/lib64"):
        if not os.path.lexists(link) and os.path.islink(f"/old{link}"):
            os.symlink(os.readlink(f"/old{link}"), link)
    os.makedirs(_WORKING_FOLDER, exist_ok=True)
    options = f"size={file_mebibytes}m,nr_inodes=1024,mode=1777"
    kernel.mount("tmpfs", _WORKING_FOLDER, "tmpfs", hidden, options)
    kernel.unmount("/old")
    os.rmdir("/old")
    kernel.make_read_only("/", recursive=False)
    os.chdir(_WORKING_FOLDER)


def library_folders(root: str = "") -> list[str]:
    """What a program may read: Python's standard library and the shared libraries below it.

    Args:
        root: Where the system's root is mounted now.
    """
    python = [path for path in sys.path if path.startswith(sys.base_prefix)]
    shared = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", f"{sys.base_exec_prefix}/lib")
    real = {os.path.realpath(f"{root}{name}") for name in (*shared, *python)}
    folders: list[str] = []
    for path in sorted(path.removeprefix(root) for path in real):
        below_another = any(path.startswith(f"{folder}/") for folder in folders)
        if os.path.isdir(f"{root}{path}") and not below_another:
            folders.append(path)
    return folders


def limit_resources(limits: dict[str, int]) -> None:
    """Set the limits that the kernel keeps for each process, named as in ``Limits``."""
    for kind, value in (
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_AS, limits["memory_mebibytes"] * MEBIBYTE),
        (resource.RLIMIT_FSIZE, limits["file_mebibytes"] * MEBIBYTE),
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
    """Take a user id that owns nothing; only as the system's root.

    Args:
        number: Differs for sandboxes that exist at the same time.
    """
    for identity in (_UNUSED_IDS_FROM + number, _NOBODY):  # a container may have fewer ids
        try:
            os.setgroups([])
            os.setresgid(identity, identity, identity)
            os.setresuid(identity, identity, identity)
            return
        except OSError as error:
            if identity == _NOBODY:
                raise OSError(error.errno, f"no user id without rights: {error}") from error


def give_up_rights(parent: int) -> None:
    """Drop every right for ever, become unreadable to others, and die with the parent.

    Args:
        parent: What ``os.getppid()`` says as long as the parent lives: 0 for a parent that a pid
            namespace hides.
    """
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    # After the change of user and capabilities, which reset it.
    kernel.prctl(kernel.PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != parent:
        os._exit(1)

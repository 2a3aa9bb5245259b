"""The program with which a sandbox starts; run by its path, never imported by the package.

Three processes, each the parent of the next:

======== ================== ======================================================================
launcher outside            waits
judge    inside             runs the tests, which the program must not see, and writes the verdict
program  inside, below      runs what the model wrote and answers calls
======== ================== ======================================================================

The program's process is forked before the judge has read anything, so its memory holds no test,
and the only descriptors that it has lead to the judge. When a process dies its child is killed: by
the kernel's pid namespace, and by its parent-death signal, which the program cannot change.

Argument: mode and limits, JSON. Standard input: what to judge, read by the judge alone.
Standard output: ``ready`` and a line break, then the verdict. Standard error: why no sandbox could
be had.
"""

# pathlib would add to the start-up time of each sandbox.
# ruff: noqa: E402, PTH100, PTH120  (modules of the package are found only after a line of code)
from __future__ import annotations

import json
import os
import sys

# Let epi_bench.sandbox be found, without what its packages import for other uses.
_sandbox = os.path.dirname(os.path.abspath(__file__))
for _name, _folder in (("epi_bench", os.path.dirname(_sandbox)), ("epi_bench.sandbox", _sandbox)):
    sys.modules[_name] = type(sys)(_name)
    sys.modules[_name].__path__ = [_folder]

from epi_bench.sandbox import (
    confinement,
    kernel,
    landlock,
    system_calls,
)
from epi_bench.sandbox.candidate import serve
from epi_bench.sandbox.channel import READY, Channel
from epi_bench.sandbox.examiner import judge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_SETUP_FAILED = 70
_HIGHEST_DESCRIPTOR = 64  # the launcher inherits three and opens a few
_SIGKILL = 9


class Sandbox:
    """One sandbox, from its start to its end.

    Args:
        starter: Number of the process that wants it.
        mode: ``namespaces`` or ``landlock``.
        limits: As ``Limits`` names them.
    """

    def __init__(self, starter: int, mode: str, limits: dict[str, int]) -> None:
        self._starter = starter
        self._has_namespaces = mode == "namespaces"
        self._limits = limits
        self._largest = limits["message_mebibytes"] * confinement.MEBIBYTE
        self._number = os.getpid()
        self._is_system_root = False  # and uses it to become a user without files
        self._libraries = confinement.library_folders()

    def launch(self) -> None:
        """The launcher's life."""
        kernel.prctl(kernel.PR_SET_PDEATHSIG, _SIGKILL)
        if os.getppid() != self._starter:
            raise RuntimeError("the process that wants this sandbox has ended")
        if self._has_namespaces:
            self._is_system_root = confinement.enter_namespaces()
        if os.fork() == 0:
            end_after(self._judge)
        os.close(0)
        os.close(1)
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        while _has_children():  # the judge, then what it leaves behind
            os.wait()

    def _judge(self) -> None:
        nowhere = os.open("/dev/null", os.O_RDWR)
        os.setsid()
        if self._has_namespaces:
            confinement.replace_file_system(self._limits["file_mebibytes"])
            kernel.unshare(kernel.CLONE_NEWPID)  # the program sees no process but its own
        calls, answers = os.pipe(), os.pipe()
        judge_number = os.getpid()
        if os.fork() == 0:
            _close_all_but(2, nowhere, calls[0], answers[1])
            channel = Channel(calls[0], answers[1], self._largest)
            end_after(lambda: self._run_program(channel, nowhere, judge_number))
        os.close(calls[0])
        os.close(answers[1])
        self._confine(self._number)
        channel = Channel(answers[0], calls[1], self._largest)
        if channel.receive() != READY:
            raise RuntimeError("the program's process did not start")
        verdict = os.dup(1)  # where nothing that a test prints can go
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.write(verdict, READY)
        request = b"".join(iter(lambda: os.read(0, 65536), b""))
        os.dup2(nowhere, 0)
        os.write(verdict, judge(request, channel, self._limits))

    def _run_program(self, channel: Channel, nowhere: int, judge_number: int) -> None:
        os.setsid()  # a signal to the program's process group must not reach the judge
        os.environ.clear()
        self._confine(judge_number)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
        channel.send(READY)
        serve(channel)

    def _confine(self, parent: int) -> None:
        confinement.limit_resources(self._limits)
        if self._is_system_root:
            confinement.become_unused_user(self._number)
        confinement.give_up_rights(parent=0 if self._has_namespaces else parent)
        if not self._has_namespaces:
            landlock.forbid_files(self._libraries)
        system_calls.install_filter()  # the last step: it forbids the others


def end_after(run: Callable[[], None]) -> NoReturn:
    """Run the whole life of a process: nothing returns into its parent's code."""
    try:
        run()
        os._exit(0)
    except BaseException as error:  # noqa: BLE001  (reported, whatever it is)
        os.write(2, f"{type(error).__name__}: {error}\n".encode(errors="replace")[:500])
    finally:
        os._exit(_SETUP_FAILED)


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _close_all_but(*kept: int) -> None:
    start = 0
    for descriptor in sorted(kept):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, _HIGHEST_DESCRIPTOR)


if __name__ == "__main__":
    end_after(Sandbox(**json.loads(sys.argv[1])).launch)

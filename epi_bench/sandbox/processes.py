"""The processes of one sandbox, each the parent of the next.

======== ================== ======================================================================
launcher outside            waits
checker  inside             runs the tests, which the program must not see, and writes the verdict
program  inside, below      runs what the model wrote and answers calls
======== ================== ======================================================================

The program's process is forked before the checker has read anything, so its memory holds no test,
and the only descriptors it has lead to the checker. When a process dies its child is killed: by
the kernel's pid namespace, or its parent-death signal, which the program cannot change.

Arguments: number of the starting process, kind of isolation, the limits. Standard input: what to
check, read by the checker alone. Standard output: ``ready`` and a line break, then the verdict.
Standard error: why no sandbox could be had.
"""

from __future__ import annotations

import os

from epi_bench.sandbox import linux
from epi_bench.sandbox.candidate import serve
from epi_bench.sandbox.channel import Channel
from epi_bench.sandbox.checker import check
from epi_bench.sandbox.limits import MEBIBYTE, Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from epi_bench.sandbox.landlock import LandlockIsolation
    from epi_bench.sandbox.namespaces import NamespaceIsolation

    Isolation = NamespaceIsolation | LandlockIsolation

_READY = b"ready\n"
_SETUP_FAILED = 70
_HIGHEST_DESCRIPTOR = 64  # the launcher inherits three and opens a few
_CHUNK = 65536


def start(arguments: list[str]) -> NoReturn:
    """Make a sandbox, wait until every process in it has ended, and end."""
    _end_after(lambda: _run_launcher(arguments))


def _run_launcher(arguments: list[str]) -> None:
    starter, kind, *numbers = arguments
    linux.prctl(linux.PR_SET_PDEATHSIG, linux.SIGKILL)
    if os.getppid() != int(starter):
        raise RuntimeError("the process that wants this sandbox has ended")
    limits = Limits.from_arguments(numbers)
    isolation = _isolation(kind, limits)
    isolation.enter()
    launcher = os.getpid()
    if os.fork() == 0:
        _end_after(lambda: _run_checker(isolation, limits, launcher))
    os.close(0)
    os.close(1)
    _wait_for_all()


def _isolation(kind: str, limits: Limits) -> Isolation:
    if kind == "landlock":
        from epi_bench.sandbox.landlock import LandlockIsolation

        return LandlockIsolation(limits)
    from epi_bench.sandbox.namespaces import NamespaceIsolation

    return NamespaceIsolation(limits)


def _run_checker(isolation: Isolation, limits: Limits, launcher: int) -> None:
    """The checker's process, from its beginning to its end."""
    largest = limits.message_mebibytes * MEBIBYTE
    nowhere = os.open("/dev/null", os.O_RDWR)
    os.setsid()
    isolation.seclude()
    isolation.before_program()
    calls, answers = os.pipe(), os.pipe()
    checker = os.getpid()
    if os.fork() == 0:
        _close_all_but(2, nowhere, calls[0], answers[1])
        _end_after(
            lambda: _run_program(
                isolation, Channel(calls[0], answers[1], largest), nowhere, checker
            )
        )
    os.close(calls[0])
    os.close(answers[1])
    isolation.confine(launcher)
    channel = Channel(answers[0], calls[1], largest)
    if channel.receive() != _READY:
        raise RuntimeError("the program's process did not start")
    os.dup2(nowhere, 2)
    os.write(1, _READY)
    request = b"".join(iter(lambda: os.read(0, _CHUNK), b""))
    os.dup2(nowhere, 0)
    verdict = check(request, channel, limits)
    os.write(1, verdict)


def _run_program(isolation: Isolation, channel: Channel, nowhere: int, checker: int) -> None:
    """The program's process, from its beginning to its end."""
    os.setsid()  # a signal to the program's process group must not reach the checker
    os.environ.clear()
    isolation.confine(checker)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    channel.send(_READY)
    serve(channel)


def _end_after(run: Callable[[], None]) -> NoReturn:
    """Run the whole life of a forked process: nothing returns into its parent's code."""
    try:
        run()
        os._exit(0)
    except BaseException as error:  # noqa: BLE001  (reported, whatever it is)
        os.write(2, f"{type(error).__name__}: {error}\n".encode(errors="replace")[:500])
    finally:
        os._exit(_SETUP_FAILED)


def _close_all_but(*kept: int) -> None:
    start = 0
    for descriptor in sorted(kept):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, _HIGHEST_DESCRIPTOR)


def _wait_for_all() -> None:
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return

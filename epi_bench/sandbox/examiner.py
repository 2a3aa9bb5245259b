"""The judge's process: runs the tests against the program, which lives in another process.

The tests call functions of the program through stand-ins; arguments and results travel as plain
values. So the program sees neither the tests nor the expected results, and only a right result
passes: there is no verdict to print, no exit status to set and no ``__eq__`` to define.
"""

from __future__ import annotations

import os
import time

from epi_bench.sandbox.candidate import LONGEST_MESSAGE, SEED
from epi_bench.sandbox.channel import (
    Channel,
    ChannelClosedError,
    DeadlineError,
    OversizedError,
)
from epi_bench.sandbox.values import (
    MalformedError,
    NotPlainError,
    decode,
    encode,
    no_handle,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SIGKILL = 9  # the module signal takes 7 ms to import

_TIME_TO_END = 1.0
"""Seconds that a program has to end after it closed its channel."""

_CPU_TOLERANCE = 0.5
"""Seconds below the limit at which a killed program counts as one that ran out of time."""


class ProgramError(Exception):
    """The program raised an exception, or gave back what no honest program gives.

    One class for everything a program raises: were it free to choose, ``StopIteration`` would end
    a loop of the tests early.
    """


class ProgramLostError(BaseException):
    """The program does not answer any more; no test may go on."""


def judge(request: bytes, channel: Channel, limits: dict[str, int]) -> bytes:
    """The verdict on a program.

    Args:
        request: Encoded tuple of program, names it defines, preparation and tests, all from the
            trusted side.
        channel: Leads to the program's process.
        limits: As ``Limits`` names them; the times are kept here.

    Returns:
        Encoded tuple of outcome and detail.
    """
    source, names, preparation, tests = decode(request, no_handle)
    channel.deadline = time.monotonic() + limits["wall_seconds"]
    program = _Program(channel)
    try:
        outcome, detail = _run(program, source, names, preparation, tests)
        if program.lost is not None:  # the tests caught the exception and went on
            raise program.lost
    except ProgramLostError as error:
        outcome, detail = _explain_loss(error, limits)
    if outcome != "passed":
        detail = _one_line(detail[:LONGEST_MESSAGE]) or "no reason given"
    return encode((outcome, detail), no_handle)


def _run(
    program: _Program, source: str, names: tuple[str, ...], preparation: str, tests: str
) -> tuple[str, str]:
    try:
        program.ask("load", source)
        defined = {name: program.ask("name", name) for name in names}
    except ProgramError as error:
        return "error", str(error)
    if "random" in tests:
        import random

        random.seed(SEED)
    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        exec(compile(preparation, "preparation", "exec", dont_inherit=True), namespace)
        namespace.update(defined)
        exec(compile(tests, "tests", "exec", dont_inherit=True), namespace)
    except AssertionError as error:
        return "wrong_answer", _describe(error, tests)
    except Exception as error:  # noqa: BLE001  (the tests may stumble over any result)
        return "error", _describe(error, tests)
    return "passed", ""


class _Program:
    """The program as the tests see it."""

    def __init__(self, channel: Channel) -> None:
        self.lost: ProgramLostError | None = None
        self._channel = channel
        self._stand_ins: dict[int, StandIn] = {}

    def ask(self, *request: Any) -> Any:
        """The program's answer to a request.

        Raises:
            ProgramError: If it raised an exception, or answered nonsense.
            ProgramLostError: If it did not answer.
        """
        if self.lost is not None:
            raise self.lost
        message = encode(request, _handle_of_stand_in)
        try:
            self._channel.send(message)
            answer = self._channel.receive()
        except (ChannelClosedError, DeadlineError, OversizedError) as error:
            self.lost = ProgramLostError(error)
            raise self.lost from error
        try:
            status, value = decode(answer, self._stand_in)
        except (MalformedError, ValueError, TypeError) as error:
            raise ProgramError(f"malformed result: {error}") from error
        if status != "ok":
            raise ProgramError(str(value))
        return value

    def _stand_in(self, handle: int) -> StandIn:
        if handle not in self._stand_ins:
            self._stand_ins[handle] = StandIn(self, handle)
        return self._stand_ins[handle]


class StandIn:
    """An object of the program that is not plain: a function, a class, an instance.

    It can be called, its attributes can be read and set, it can be passed back to the program.
    Two of them are equal only if they stand for the same object.
    """

    __slots__ = ("_handle", "_program")

    def __init__(self, program: _Program, handle: int) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_handle", handle)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._program.ask("call", self, arguments, keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._program.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.ask("set", self, name, value)

    def __bool__(self) -> bool:
        answer = self._program.ask("truth", self)
        if not isinstance(answer, bool):
            raise ProgramError("malformed result: a truth value is not a bool")
        return answer


def _handle_of_stand_in(value: Any) -> int:
    if isinstance(value, StandIn):
        handle: int = object.__getattribute__(value, "_handle")
        return handle
    raise NotPlainError(f"tests cannot pass a {type(value).__name__} to the program")


def _explain_loss(error: ProgramLostError, limits: dict[str, int]) -> tuple[str, str]:
    (cause,) = error.args
    if isinstance(cause, DeadlineError):
        return "timeout", f"not finished after {limits['wall_seconds']} s"
    if isinstance(cause, OversizedError):
        return "error", f"a result is too large: {cause}"
    status, cpu_seconds = _wait_for_end()
    if status is None:
        return "crashed", "the program closed its connection to the tests"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == _SIGKILL and cpu_seconds >= limits["cpu_seconds"] - _CPU_TOLERANCE:
            return "timeout", f"used {limits['cpu_seconds']} s of processor time"
        import signal

        return "crashed", f"the program was ended by {signal.Signals(number).name}"
    return "crashed", f"the program ended itself with status {os.WEXITSTATUS(status)}"


def _wait_for_end() -> tuple[int | None, float]:
    """Wait status and processor seconds of the program's process; ``None`` if it goes on."""
    end = time.monotonic() + _TIME_TO_END
    while time.monotonic() < end:
        number, status, usage = os.wait4(-1, os.WNOHANG)
        if number:
            return status, usage.ru_utime + usage.ru_stime
        time.sleep(0.002)
    return None, 0.0


def _one_line(text: str) -> str:
    """The text, which the program may have chosen, without what could upset a terminal."""
    return "".join(sign if sign.isprintable() else " " for sign in text).strip()


def _describe(error: Exception, tests: str) -> str:
    """The error, and the line of the tests at which it was raised."""
    name = "" if isinstance(error, ProgramError) else type(error).__name__
    text = ": ".join(part for part in (name, str(error)) if part)
    line = None
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "tests":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    if line is None:
        return text
    return f"{text} in {tests.splitlines()[line - 1].strip()}"

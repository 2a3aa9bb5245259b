"""The program's process: runs what the model wrote, and calls its functions when asked.

Nothing here is trusted by the judge: the program may replace any of it. All it can gain is to
send other bytes, and only bytes that hold the right results pass the tests.
"""

from __future__ import annotations

import builtins
import sys

from epi_bench.sandbox.channel import Channel, OversizedError
from epi_bench.sandbox.values import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SEED = 0
"""Of the module ``random``, so that a verdict does not change from run to run."""

LONGEST_MESSAGE = 300
"""Characters of an error message that are passed on."""


def serve(channel: Channel) -> None:
    """Answer the judge's requests until it ends."""
    server = _Server()
    while True:
        request = decode(channel.receive(), server.object_of)
        try:
            answer = encode(("ok", server.answer(request)), server.handle_of)
        except BaseException as error:  # noqa: BLE001  (a program may raise anything)
            answer = encode(("raised", _describe(error)), server.handle_of)
        try:
            channel.send(answer)
        except OversizedError as error:
            channel.send(encode(("raised", f"result too large: {error}"), server.handle_of))


class _Server:
    """Holds the program's module and the objects that the judge has handles of."""

    def __init__(self) -> None:
        self._module = type(sys)("program")
        self._objects: list[Any] = []
        self._handles: dict[int, int] = {}

    def handle_of(self, value: Any) -> int:
        if id(value) not in self._handles:
            self._handles[id(value)] = len(self._objects)
            self._objects.append(value)  # kept alive, so its id stays its own
        return self._handles[id(value)]

    def object_of(self, handle: int) -> Any:
        return self._objects[handle]

    def answer(self, request: tuple[Any, ...]) -> Any:
        kind, *arguments = request
        return getattr(self, f"_{kind}")(*arguments)

    def _load(self, source: str) -> None:
        sys.argv = [""]
        sys.modules["program"] = self._module
        vars(builtins).update(exit=sys.exit, quit=sys.exit)
        if "random" in source:
            import random

            random.seed(SEED)
        exec(compile(source, "program", "exec", dont_inherit=True), vars(self._module))

    def _name(self, name: str) -> Any:
        return vars(self._module)[name]

    def _call(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        return function(*arguments, **keywords)

    def _get(self, target: Any, name: str) -> Any:
        return getattr(target, name)

    def _set(self, target: Any, name: str, value: Any) -> None:
        setattr(target, name, value)

    def _truth(self, target: Any) -> bool:
        return bool(target)


def _describe(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001  (a program's exception may do anything)
        text = ""
    return f"{type(error).__name__}: {text}".removesuffix(": ")[:LONGEST_MESSAGE]

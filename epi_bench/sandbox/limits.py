"""What a program may use.

Read by the processes of a sandbox too, whose start-up time counts: no imports here.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

MEBIBYTE = 2**20


class Limits:
    """Limits of one program; its tests run under the same ones, in a process of their own.

    Args:
        wall_seconds: Time from the start of the program to the end of its tests, at least 1.
        cpu_seconds: Processor time, at least 1.
        memory_mebibytes: Address space, the interpreter's own 30 MiB or so included; at least 64.
        file_mebibytes: Size of the working folder, which lies in memory; at least 1.
        threads: Threads of the program, at least 1. It is never given a second process.
        message_mebibytes: Largest set of arguments or result passed between program and tests; at
            least 1.

    Raises:
        ValueError: For a limit below its minimum.
    """

    _MINIMA: ClassVar[dict[str, int]] = {
        "wall_seconds": 1,
        "cpu_seconds": 1,
        "memory_mebibytes": 64,
        "file_mebibytes": 1,
        "threads": 1,
        "message_mebibytes": 1,
    }

    def __init__(
        self,
        *,
        wall_seconds: int = 20,
        cpu_seconds: int = 10,
        memory_mebibytes: int = 512,
        file_mebibytes: int = 16,
        threads: int = 16,
        message_mebibytes: int = 8,
    ) -> None:
        self.wall_seconds = wall_seconds
        self.cpu_seconds = cpu_seconds
        self.memory_mebibytes = memory_mebibytes
        self.file_mebibytes = file_mebibytes
        self.threads = threads
        self.message_mebibytes = message_mebibytes
        for name, minimum in self._MINIMA.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be at least {minimum}")

    def to_arguments(self) -> list[str]:
        """The limits as command-line arguments."""
        return [str(getattr(self, name)) for name in self._MINIMA]

    @classmethod
    def from_arguments(cls, arguments: list[str]) -> Limits:
        """The limits that :meth:`to_arguments` wrote."""
        names = zip(cls._MINIMA, arguments, strict=True)
        return cls(**{name: int(value) for name, value in names})

"""Messages between two processes over two pipes, bounded in size and time."""

from __future__ import annotations

import os
import select
import struct
import time

READY = b"ready\n"
"""The first words of a process of a sandbox, once it is set up."""

_LENGTH = struct.Struct("<I")
_CHUNK = 65536


class ChannelClosedError(OSError):
    """The other process has ended or closed its side."""


class DeadlineError(TimeoutError):
    """The other process has not answered in time."""


class OversizedError(ValueError):
    """A message is larger than allowed."""


class Channel:
    """One side of a connection.

    Args:
        reading: Descriptor of the pipe to read from.
        writing: Descriptor of the pipe to write to.
        largest: Largest message in bytes, either way.

    Attributes:
        deadline: On the clock of ``time.monotonic``, for all that is sent and received; ``None``
            waits for ever.
    """

    def __init__(self, reading: int, writing: int, largest: int) -> None:
        self.deadline: float | None = None
        self._reading = reading
        self._writing = writing
        self._largest = largest
        for descriptor in (reading, writing):
            os.set_blocking(descriptor, False)

    def send(self, message: bytes) -> None:
        """Send one message.

        Raises:
            OversizedError: If it is larger than the limit; nothing has been sent.
            ChannelClosedError: If nobody listens any more.
            DeadlineError: If it was not taken in time.
        """
        if len(message) > self._largest:
            raise OversizedError(f"{len(message)} bytes, more than {self._largest}")
        rest = memoryview(_LENGTH.pack(len(message)) + message)
        while rest:
            self._wait(self._writing, select.POLLOUT)
            try:
                rest = rest[os.write(self._writing, rest[:_CHUNK]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise ChannelClosedError(str(error)) from error

    def receive(self) -> bytes:
        """The next message.

        Raises:
            OversizedError: If it is larger than the limit; it has not been read.
            ChannelClosedError: If the other side is closed.
            DeadlineError: If it did not arrive in time.
        """
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > self._largest:
            raise OversizedError(f"{length} bytes, more than {self._largest}")
        return self._read(length)

    def _read(self, count: int) -> bytes:
        parts = []
        while count:
            self._wait(self._reading, select.POLLIN)
            try:
                part = os.read(self._reading, min(count, _CHUNK))
            except BlockingIOError:
                continue
            except OSError as error:
                raise ChannelClosedError(str(error)) from error
            if not part:
                raise ChannelClosedError("the other side is closed")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _wait(self, descriptor: int, event: int) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        remaining = None
        if self.deadline is not None:
            remaining = max(0.0, self.deadline - time.monotonic()) * 1000
        if not poll.poll(remaining):
            raise DeadlineError("no answer in time")

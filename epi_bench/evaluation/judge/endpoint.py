"""A chat-completions endpoint, asked patiently: rate limit, time limit, retries with back-off.

The loop of retries is written out. With tenacity it would be longer, because a ``Retry-After`` that
is too long ends the attempts and each attempt waits for the rate limit first; no client bounds the
size of an answer and the time of a slow one.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from queue import Empty, SimpleQueue
from typing import Any

import httpx

from epi_bench.errors import UserError, describe_error
from epi_bench.evaluation.judge.redaction import Redaction
from epi_bench.evaluation.judge.settings import KEY_VARIABLE, JudgeSettings

RETRIED_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
MAX_RESPONSE_BYTES = 1024 * 1024
LONGEST_DETAIL = 200
"""Characters of a server's own message that an error repeats."""

_GRACE = 0.5
"""Seconds longer that an exchange is waited for: its own message is more exact."""


class JudgeUnavailableError(Exception):
    """The endpoint gave no answer to a request; the message says why, in one line.

    Attributes:
        lasting: Whether the next request would fail in the same way (wrong key, unknown model).
    """

    def __init__(self, message: str, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


@dataclass(frozen=True)
class Patience:
    """How long an endpoint is waited for.

    Attributes:
        timeout: Seconds that one request may take in all.
        attempts: Requests before an item is given up.
        first_delay: Seconds before the second attempt; doubled each time.
        longest_delay: Seconds that a delay, or a server's ``Retry-After``, may last; a server that
            asks for more is not waited for.
    """

    timeout: float = 120.0
    attempts: int = 5
    first_delay: float = 1.0
    longest_delay: float = 60.0


@dataclass
class RateLimit:
    """Spaces requests evenly: the k-th starts at least ``60 k / requests_per_minute`` s in.

    Args:
        requests_per_minute: 0 sets no limit.
        clock: Seconds, never going back.
        sleep: Waits for a number of seconds.
    """

    requests_per_minute: int
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _next: float = field(init=False, default=float("-inf"))
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def wait(self) -> None:
        """Return when the next request may start."""
        if self.requests_per_minute == 0:
            return
        with self._lock:
            now = self.clock()
            start = max(now, self._next)
            self._next = start + 60.0 / self.requests_per_minute
        if start > now:
            self.sleep(start - now)


class ChatEndpoint:
    """Asks one model for completions.

    The key is read from the environment here and is only ever sent in the ``Authorization`` header;
    redirects are not followed, so that it goes nowhere else, and it is taken out of whatever the
    server sends, answers among it. Safe to call from several threads.

    Args:
        settings: Address, model and rate.
        patience: Limits of time and of attempts.
        clock: Seconds, never going back.
        sleep: Waits for a number of seconds.

    Raises:
        UserError: If the key holds characters that no header may.
    """

    def __init__(
        self,
        settings: JudgeSettings,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.settings = settings
        self.patience = patience or Patience()
        self._clock, self._sleep = clock, sleep
        self._rate = RateLimit(settings.requests_per_minute, clock, sleep)
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError(f"the key in {KEY_VARIABLE} holds a character that no key may")
        headers = {"Accept-Encoding": "identity"}  # so that the limit on the size is one
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._redacted = Redaction(self._key)
        self._client = httpx.Client(headers=headers, timeout=self.patience.timeout)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def complete(self, body: Mapping[str, Any], seed: str, attempts: int | None = None) -> str:
        """The text of the first choice, as Unicode and without the key.

        A status of :data:`RETRIED_STATUSES`, a broken connection and a time-out are tried again
        after ``first_delay * 2^k``, times a random factor in [0.5, 1], or after what the server's
        ``Retry-After`` says.

        Args:
            body: The request, without credentials.
            seed: Seeds the delays' random factors, so that they do not depend on other threads.
            attempts: Instead of the patience's.

        Raises:
            JudgeUnavailableError: If no attempt gave a text.
        """
        draws = random.Random(seed)
        last = attempts or self.patience.attempts
        for attempt in range(1, last + 1):
            self._rate.wait()
            try:
                return self._request(body)
            except _TryAgainError as error:
                if attempt == last:
                    raise JudgeUnavailableError(str(error)) from error
                delay = self.patience.first_delay * 2 ** (attempt - 1) * draws.uniform(0.5, 1)
                delay = min(delay, self.patience.longest_delay)
                if error.wait is not None:
                    delay = max(delay, error.wait)
                if delay > self.patience.longest_delay:
                    message = f"{error} and asks to wait for {delay:.0f} s"
                    raise JudgeUnavailableError(message) from error
            self._sleep(delay)
        raise JudgeUnavailableError("was not asked: the number of attempts is 0")

    def _request(self, body: Mapping[str, Any]) -> str:
        """One request, in a thread of its own that is left where it takes too long.

        Nothing else bounds the whole exchange: the client's limits are those of a connection and
        of each read, which a server that sends a byte of a header now and then never reaches.
        """
        answers: SimpleQueue[str | Exception] = SimpleQueue()

        def exchange() -> None:
            try:
                answers.put(self._exchange(body))
            except Exception as error:  # noqa: BLE001  (raised below, where it is waited for)
                answers.put(error)

        threading.Thread(target=exchange, name="judge request", daemon=True).start()
        try:
            answer = answers.get(timeout=self.patience.timeout + _GRACE)
        except Empty:
            raise _TryAgainError(f"did not finish in {self.patience.timeout:g} s") from None
        if isinstance(answer, str):
            return answer
        if isinstance(answer, JudgeUnavailableError | _TryAgainError):
            raise answer
        raise _TryAgainError(f"cannot be asked: {self._redacted(describe_error(answer))}")

    def _exchange(self, body: Mapping[str, Any]) -> str:
        address = self.settings.completions_url
        deadline = self._clock() + self.patience.timeout
        try:
            with self._client.stream("POST", address, json=dict(body)) as response:
                content = self._read(response, deadline)
        except httpx.TimeoutException as error:
            raise _TryAgainError(f"did not answer in {self.patience.timeout:g} s") from error
        except httpx.RequestError as error:
            raise _TryAgainError(f"cannot be reached: {self._redacted(str(error))}") from error
        if response.status_code in RETRIED_STATUSES:
            wait = _retry_after(response.headers.get("Retry-After"))
            raise _TryAgainError(self._refusal(response.status_code, content), wait)
        if response.status_code != 200:
            raise JudgeUnavailableError(self._refusal(response.status_code, content), lasting=True)
        return self._redacted(_as_unicode(_completion(content)))

    def _read(self, response: httpx.Response, deadline: float) -> bytes:
        """The body, bounded in size, and in time by the clock (httpx bounds each read only)."""
        content = bytearray()
        for part in response.iter_bytes():
            content += part
            if len(content) > MAX_RESPONSE_BYTES:
                raise _TryAgainError(f"sent more than {MAX_RESPONSE_BYTES} bytes")
            if self._clock() > deadline:
                raise _TryAgainError(f"did not finish in {self.patience.timeout:g} s")
        return bytes(content)

    def _refusal(self, status: int, content: bytes) -> str:
        if status in (401, 403):
            # The server's own message is left out: some repeat a part of the key.
            return f"refuses the key (HTTP {status}): check {KEY_VARIABLE}"
        detail = " ".join(self._redacted(_server_message(content)).split())[:LONGEST_DETAIL]
        return f"answers HTTP {status}" + (f" ({detail})" if detail else "")


class _TryAgainError(Exception):
    """A failure that may pass; ``wait`` is the server's ``Retry-After`` in seconds, if it said."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


def _completion(content: bytes) -> str:
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise _TryAgainError("does not answer as a chat-completions endpoint") from error
    if text is None:  # what a judge sends that spent all its tokens on thinking
        return ""
    if not isinstance(text, str):
        raise _TryAgainError("does not answer as a chat-completions endpoint")
    return text


def _as_unicode(text: str) -> str:
    """The text with a replacement character for each half of a surrogate pair.

    JSON can hold them; nothing that follows can write, hash or send them.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _server_message(content: bytes) -> str:
    text = content[:20_000].decode("utf-8", errors="replace")
    try:
        found = json.loads(text)["error"]
        return str(found["message"] if isinstance(found, dict) else found)
    except (ValueError, KeyError, TypeError, RecursionError):
        return text


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait that a ``Retry-After`` header names: a number or a date (RFC 9110)."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (date.astimezone(UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds == seconds else None  # NaN is not a time

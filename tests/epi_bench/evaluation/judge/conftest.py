"""A chat-completions server on this machine that can be told to misbehave, and a clock to match."""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from epi_bench.evaluation.judge import JudgeSettings

KEY = "sk-test-1234567890abcdef"


@dataclass
class Reply:
    """What the server sends: ``text`` as a completion, or ``body`` as it is."""

    text: str = "Score: [[7]]"
    status: int = 200
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False  # send nothing until the test ends
    drip: bool = False  # send a byte now and then
    drip_headers: bool = False  # the same before the answer begins

    @property
    def content(self) -> bytes:
        completion = {"choices": [{"message": {"role": "assistant", "content": self.text}}]}
        return (json.dumps(completion) if self.body is None else self.body).encode()


class JudgeServer(ThreadingHTTPServer):
    """Sends the replies in ``script``, then what ``reply_to`` makes of a request's body."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: deque[Reply] = deque()
        self.reply_to = lambda body: Reply()
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        self.ended = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def questions(self) -> list[str]:
        """The user's last words in each request."""
        return [body["messages"][-1]["content"] for body in self.bodies]


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append({**body, "path": self.path})
            self.server.keys.append(self.headers.get("Authorization"))
            script = self.server.script
            reply = script.popleft() if script else self.server.reply_to(body)
        if reply.hang:
            self.server.ended.wait(10)
            return
        if reply.drip_headers:
            self._drip(b"HTTP/1.1 200 OK\r\n" + b"X-Filler: x\r\n" * 1000)
            return
        self.send_response(reply.status)
        self.send_header("Content-Length", str(len(reply.content)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if reply.drip:
            self._drip(reply.content)
            return
        try:
            self.wfile.write(reply.content)
        except OSError:  # the client hung up, as it should
            return

    def _drip(self, content: bytes) -> None:
        try:
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.server.ended.wait(0.05):
                    return
        except OSError:  # the client hung up, as it should
            return

    def log_message(self, *_arguments) -> None:
        """Keep the tests' output clean."""


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The server, running; the key is set and the cache is empty."""
    monkeypatch.setenv("EPI_BENCH_JUDGE_KEY", KEY)
    monkeypatch.setenv("EPI_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = JudgeServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def reply():
    """Makes replies: ``reply("[[3]]", status=500)``."""
    return Reply


@pytest.fixture
def key() -> str:
    """The key in the environment."""
    return KEY


@pytest.fixture
def fake_time() -> FakeTime:
    """A clock that only sleeping moves."""
    return FakeTime()


@pytest.fixture
def closed_port(monkeypatch) -> int:
    """A port on which nothing listens."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def settings(server) -> JudgeSettings:
    """Of the server, without a limit on the rate."""
    return JudgeSettings(server.url, "toy-judge", requests_per_minute=0)

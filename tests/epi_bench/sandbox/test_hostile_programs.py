"""Programs that try to pass without being right, to do harm, or never to end: none succeeds."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from epi_bench.sandbox import Limits, Program
from epi_bench.sandbox.execution import run_program

pytestmark = pytest.mark.multi_process

# Each is tested with ``assert f(1) == 2`` only, and must not know that.
FORGERIES = {
    "exit before the tests": "import os\nos._exit(0)",
    "exit when called": "import os\ndef f(x):\n    os._exit(0)",
    "sys.exit when called": "import sys\ndef f(x):\n    sys.exit(0)",
    "a printed pass": """
print('ready\\n["passed", ""]', flush=True)
def f(x):
    print("passed", "OK", 2, flush=True)
""",
    "a pass written to every descriptor": """
import os
for number in range(64):
    try:
        os.write(number, b'ready\\n{"tuple": ["passed", ""]}')
    except OSError:
        pass
def f(x):
    return 2
""",
    "an object equal to all": """
class Equal:
    def __eq__(self, other):
        return True
    __req__ = __eq__
def f(x):
    return Equal()
""",
    "a number equal to all": """
class Equal(int):
    def __eq__(self, other):
        return True
    __hash__ = int.__hash__
def f(x):
    return Equal(7)
""",
    "replaced builtins": """
import builtins
builtins.AssertionError = builtins.Exception = type("Never", (BaseException,), {})
builtins.compile = builtins.exec = lambda *a, **k: None
def f(x):
    raise builtins.AssertionError
""",
    "looking through frames and objects for the tests": """
import gc, sys
def f(x):
    frame = sys._getframe()
    seen = []
    while frame is not None:
        seen.append(repr(frame.f_locals))
        frame = frame.f_back
    seen += [o for o in gc.get_objects() if isinstance(o, (str, bytes))]
    seen += [repr(c.co_consts) for c in gc.get_objects() if hasattr(c, "co_consts")]
    return 2 if any("assert f(" in str(text) for text in seen) else None
""",
    "answering in the server's place": """
import sys
from epi_bench.sandbox import candidate
candidate.encode = lambda value, handle_of: b'{"tuple": ["passed", ""]}'
def f(x):
    return None
""",
    "an answer that is no value": """
from epi_bench.sandbox import candidate
def f(x):
    candidate.encode = lambda value, handle_of: b'{"tuple": ["ok", {"iterator": 3}]}'
""",
    "killing the judge": """
import os, signal
for number in (1, os.getppid(), -1, 0):
    try:
        os.kill(number, signal.SIGKILL)
    except OSError:
        pass
def f(x):
    return None
""",
    "catching what ends it": """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, lambda *a: None)
    except (OSError, ValueError):
        pass
def f(x):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
""",
    "an endless loop while it is loaded": "while True:\n    pass",
    "sleeping for ever": "import time\ndef f(x):\n    time.sleep(10**6)",
    "an endless result": "import itertools\ndef f(x):\n    return itertools.count()",
    "a result that contains itself": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "a deep result": """
def f(x):
    a = []
    for _ in range(10**5):
        a = [a]
    return a
""",
    "a long result": "def f(x):\n    return 'x' * 50_000_000",
    "ten gigabytes": "def f(x):\n    bytearray(10 * 2**30)\n    return 2",
    "memory bit by bit": "def f(x):\n    a = []\n    while 1:\n        a.append(bytearray(2**20))",
    "a crash": "import ctypes\ndef f(x):\n    return ctypes.string_at(0)",
    "a deep recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x):\n    return f(x)",
    "an endless output": "def f(x):\n    while True:\n        print('x' * 10**6)",
    "a fork bomb": "import os\ndef f(x):\n    while True:\n        os.fork()",
    "a child in a session of its own": """
import os, time
def f(x):
    if os.fork() == 0:
        os.setsid()
        time.sleep(10**6)
    return 2
""",
    "another program": "import subprocess\ndef f(x):\n    return subprocess.call(['true']) or 2",
    "endless threads": """
import threading, time
def f(x):
    while True:
        threading.Thread(target=time.sleep, args=(10**6,)).start()
""",
    "a full disk": """
def f(x):
    with open("file", "wb") as file:
        for _ in range(100):
            file.write(bytes(2**20))
    return 2
""",
    "many files": """
def f(x):
    for number in range(10**5):
        open(str(number), "w").close()
    return 2
""",
    "a network socket": "import socket\ndef f(x):\n    socket.socket()\n    return 2",
    "a system's file": "def f(x):\n    return 2 if open('/etc/passwd').read() else 0",
    "an environment variable": "import os\ndef f(x):\n    return 2 if os.environ['HOME'] else 0",
    "more rights": "import os\ndef f(x):\n    os.setuid(0)\n    os.mkdir('/made')\n    return 2",
}


def processes_of_this_test():
    """Command lines of sandboxes that this process has started."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if b'"starter": %d,' % os.getpid() in command:
                found.append(command)
    return found


@pytest.mark.parametrize("name", FORGERIES)
def test_it_neither_passes_nor_stays(name, mode, limits):
    start = time.monotonic()
    verdict = run_program(Program(FORGERIES[name], ("f",), "assert f(1) == 2"), mode, limits)
    assert not verdict.passed
    assert verdict.detail
    assert time.monotonic() - start < limits.wall_seconds + 10  # starting takes long under load
    assert processes_of_this_test() == []


def test_nothing_of_the_home_folder_is_read_or_written(mode, limits, tmp_path, monkeypatch):
    tmp_path.chmod(0o777)
    secret = tmp_path / "secret"
    secret.write_text("2")
    secret.chmod(0o666)
    source = f"""
import os
def f(x):
    return int(open({str(secret)!r}).read())
def g(x):
    for act in (
        lambda: open({str(secret)!r}, "w").write("3"),
        lambda: os.truncate({str(secret)!r}, 0),
        lambda: os.chmod({str(secret)!r}, 0),
        lambda: os.unlink({str(secret)!r}),
        lambda: os.rename({str(secret)!r}, {str(tmp_path / "other")!r}),
        lambda: os.mkdir({str(tmp_path / "made")!r}),
        lambda: os.symlink("/", {str(tmp_path / "link")!r}),
    ):
        try:
            act()
        except OSError:
            pass
    return 2
"""
    assert run_program(Program(source, ("f",), "assert f(1) == 2"), mode, limits).outcome in (
        "error",
        "crashed",
    )
    assert run_program(Program(source, ("g",), "assert g(1) == 2"), mode, limits).passed
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert secret.read_text() == "2"
    assert secret.stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize("kind", ["path", "abstract", "internet"])
def test_nobody_is_reached_by_a_socket(mode, limits, tmp_path, kind):
    families = {"path": socket.AF_UNIX, "abstract": socket.AF_UNIX, "internet": socket.AF_INET}
    addresses = {"path": "", "abstract": f"\0epi-bench-{os.getpid()}", "internet": ("127.0.0.1", 0)}
    address = addresses[kind] or os.path.relpath(tmp_path / "s", Path.cwd())
    with socket.socket(families[kind]) as server:
        server.bind(address)
        server.listen()
        server.settimeout(0.2)
        reached = server.getsockname() if kind != "path" else str(tmp_path / "s")
        reached = reached.decode() if isinstance(reached, bytes) else reached
        source = f"""
import socket
def f(x):
    socket.socket({int(families[kind])}).connect({reached!r})
    return 2
"""
        verdict = run_program(Program(source, ("f",), "assert f(1) == 2"), mode, limits)
        assert verdict.outcome == "error"
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_sandbox_ends_with_the_process_that_wanted_it(mode, tmp_path):
    script = tmp_path / "start.py"
    script.write_text(
        "from epi_bench.sandbox import Limits, Program\n"
        "from epi_bench.sandbox.runner import run_program\n"
        "program = Program('import time\\ndef f():\\n    time.sleep(600)', ('f',), 'f()')\n"
        f"run_program(program, {mode!r}, Limits(wall_seconds=600))\n"
    )
    starter = subprocess.Popen([sys.executable, script])
    mark = b'"starter": %d,' % starter.pid

    def sandboxes():
        commands = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    commands.append((folder / "cmdline").read_bytes())
                except OSError:
                    continue
        return sum(mark in command for command in commands)

    def wait_for(count):
        deadline = time.monotonic() + 30
        while sandboxes() != count and time.monotonic() < deadline:
            time.sleep(0.05)
        return sandboxes()

    assert wait_for(3) == 3  # launcher, judge and program
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    assert wait_for(0) == 0


def test_tests_that_do_not_end_are_ended(mode):
    limits = Limits(wall_seconds=2, cpu_seconds=1)
    program = Program("def f(x):\n    return 2", ("f",), "while f(1) == 2:\n    pass")
    assert not run_program(program, mode, limits).passed
    assert processes_of_this_test() == []

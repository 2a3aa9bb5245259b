"""Honest programs: what passes, what does not and why, and what a program may use."""

import pytest

from epi_bench import UserError
from epi_bench.sandbox import CodeRunner, Limits, Program
from epi_bench.sandbox import probe as probe_module
from epi_bench.sandbox.execution import run_program
from epi_bench.sandbox.program import SandboxError
from epi_bench.sandbox.system_calls import build_filter

pytestmark = pytest.mark.multi_process


@pytest.fixture
def judge(mode):
    def run(source, tests, *names, preparation="", limits=None):
        program = Program(source, names or ("f",), tests, preparation)
        return run_program(program, mode, limits or Limits(wall_seconds=10, cpu_seconds=1))

    return run


@pytest.mark.parametrize(
    ("source", "tests", "outcome", "detail"),
    [
        ("def f(x):\n    return x + 1", "assert f(1) == 2", "passed", ""),
        (
            "def f(x):\n    return x",
            "assert f(2) == 2\nassert f(1) == 2",
            "wrong_answer",
            "AssertionError in assert f(1) == 2",
        ),
        (
            "def f(x):\n    return x / 0",
            "assert f(1) == 2",
            "error",
            "ZeroDivisionError: division by zero in assert f(1) == 2",
        ),
        ("def g(x):\n    return 2", "assert f(1) == 2", "error", "KeyError: 'f'"),
        ("def f(x) return 2", "assert f(1) == 2", "error", "SyntaxError"),
        ("def f(x):\n    while True: pass", "f(1)", "timeout", "1 s of processor time"),
        ("import os\nos._exit(3)", "f(1)", "crashed", "ended itself with status 3"),
        ("def f(x):\n    return x", "assert f(lambda: 1)", "error", "cannot pass a function"),
    ],
)
def test_the_verdict_says_what_happened(judge, source, tests, outcome, detail):
    verdict = judge(source, tests)
    assert verdict.outcome == outcome
    assert detail in verdict.detail
    assert verdict.passed == (outcome == "passed")


@pytest.mark.parametrize(
    ("source", "tests"),
    [
        ("def f():\n    print('x' * 10**6)\n    return 1", "assert f() == 1"),
        (
            "import random\ndef f():\n    return random.random()",
            "import random\nassert f() == random.random()",
        ),
        ("def f():\n    return list({'a', 'b', 'c'})", "assert f() == list({'a', 'b', 'c'})"),
        (
            "import threading\ndef f():\n    found = []\n"
            "    thread = threading.Thread(target=found.append, args=(1,))\n"
            "    thread.start()\n    thread.join()\n    return found",
            "assert f() == [1]",
        ),
        ("def f():\n    return input()", "try:\n    f()\nexcept Exception as e:\n    r = str(e)\n"
         "assert 'EOFError' in r"),
        ("import os\ndef f():\n    return dict(os.environ)", "assert f() == {}"),
        ("if __name__ == '__main__':\n    import nothing\ndef f():\n    return 1", "assert f()"),
        ("def f(n):\n    return n and 1 + f(n - 1)", "assert f(800) == 800"),
        ("def f():\n    return 1", "print('x' * 10**6)\nassert f() == 1"),
    ],
)  # fmt: skip
def test_honest_programs_pass(judge, source, tests):
    verdict = judge(source, tests)
    assert verdict.passed, verdict


def test_objects_of_the_program_can_be_made_passed_and_changed(judge):
    source = """
class Node:
    def __init__(self, value, below=None):
        self.value = value
        self.below = below or []
    def add(self, node):
        self.below.append(node)
        return self
def total(node):
    return node.value + sum(map(total, node.below))
"""
    tests = """
root = Node(1, below=[Node(2)])
root.other = Node(5)
assert root.add(Node(3)).value == 1
assert total(root) == 6 and root.other.value == 5
assert root != Node(1) and root == root
"""
    assert judge(source, tests, "Node", "total").passed


def test_helper_functions_of_the_tests_are_not_the_programs(judge):
    preparation = "def double(x):\n    return 2 * x\ndef f(x):\n    pass\n"
    source = "def double(x):\n    return 0\nabs = lambda x: 0\ndef f(x):\n    return 1"
    assert not judge(source, "assert abs(f(3) - double(3)) < 1e-9", preparation=preparation).passed


def test_a_working_folder_is_there_and_empty_each_time():
    problem = probe_module.find_problem("namespaces")
    if problem:
        pytest.skip(problem)
    source = (
        "import os\ndef f():\n    open('file', 'w').write('text')\n"
        "    return os.listdir('.'), sorted(os.listdir('/'))"
    )
    program = Program(source, ("f",), "a, b = f()\nassert a == ['file'] and 'etc' not in b")
    for _ in range(2):
        assert run_program(program, "namespaces", Limits()).passed


def test_many_programs_are_judged_side_by_side_in_their_order():
    runner = CodeRunner()
    programs = [
        Program(f"def f():\n    return {n}", ("f",), f"assert f() == {n % 3}") for n in range(6)
    ]
    verdicts = runner.run_all(programs, workers=2)
    assert [v.passed for v in verdicts] == [True, True, True, False, False, False]
    assert runner.run_all([]) == []


def test_a_system_without_protection_is_an_error_with_its_remedy(monkeypatch):
    def fail(program, mode, limits):
        raise SandboxError(f"no {mode} today")

    monkeypatch.setattr(probe_module, "run_program", fail)
    monkeypatch.delenv("EPI_BENCH_SANDBOX", raising=False)
    with pytest.raises(UserError) as caught:
        CodeRunner()
    message = str(caught.value)
    assert "namespaces: no namespaces today; landlock: no landlock today" in message
    assert "sysctl user.max_user_namespaces" in message and "\n" not in message


def test_a_mode_that_leaks_is_not_taken(monkeypatch):
    leaky = probe_module._ATTEMPTS.replace(
        "def libraries", "def attempt(what, action):\n    return [what]\n\ndef libraries"
    )
    monkeypatch.setattr(probe_module, "_ATTEMPTS", leaky)
    with pytest.raises(UserError, match="it permits reading a file, changing a file"):
        CodeRunner(mode="namespaces")


def test_the_environment_chooses_and_is_checked(monkeypatch, mode):
    monkeypatch.setenv("EPI_BENCH_SANDBOX", mode)
    assert CodeRunner().mode == mode
    monkeypatch.setenv("EPI_BENCH_SANDBOX", "namespace")
    with pytest.raises(UserError, match="did you mean 'namespaces'"):
        CodeRunner()


def test_other_systems_are_refused(monkeypatch):
    monkeypatch.setattr(probe_module.sys, "platform", "darwin")
    with pytest.raises(UserError, match="only be shut off on Linux, not on darwin"):
        CodeRunner()


@pytest.mark.parametrize("wrong", [{"cpu_seconds": 0}, {"memory_mebibytes": 63}])
def test_limits_have_a_minimum(wrong):
    with pytest.raises(ValueError, match="must be at least"):
        Limits(**wrong)


def run_filter(instructions, architecture, number, arguments=(0,) * 6):
    """What a filter returns for a call: classic BPF, interpreted."""
    words = {0: number, 4: architecture}
    for position, argument in enumerate(arguments):
        words[16 + 8 * position] = argument & 0xFFFFFFFF
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, operand = instructions[at]
        at += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            accumulator = words[operand]
        elif code == 0x54:
            accumulator &= operand
        else:
            met = accumulator == operand if code == 0x15 else accumulator >= operand
            at += if_true if met else if_false


ALLOW, KILL, EPERM, EAGAIN, ENOSYS = 0x7FFF0000, 0x80000000, 0x50001, 0x5000B, 0x50026


@pytest.mark.parametrize(
    ("machine", "audit", "call", "arguments", "expected"),
    [
        ("x86_64", 0xC000003E, 0, (), ALLOW),  # read
        ("x86_64", 0xC000003E, 57, (), EPERM),  # fork
        ("x86_64", 0xC000003E, 56, (17,), EAGAIN),  # clone, with SIGCHLD alone
        ("x86_64", 0xC000003E, 56, (0x3D0F00,), ALLOW),  # clone, a thread
        ("x86_64", 0xC000003E, 435, (), ENOSYS),  # clone3
        ("x86_64", 0xC000003E, 41, (1, 1), EPERM),  # socket
        ("x86_64", 0xC000003E, 53, (1, 1 | 0o2000000), ALLOW),  # socketpair, stream, close-on-exec
        ("x86_64", 0xC000003E, 53, (1, 2), EPERM),  # socketpair, datagrams
        ("x86_64", 0xC000003E, 302, (0, 7), ALLOW),  # prlimit64, this process
        ("x86_64", 0xC000003E, 302, (1, 7), EPERM),  # prlimit64, another one
        ("x86_64", 0xC000003E, 157, (1, 0), EPERM),  # prctl(PR_SET_PDEATHSIG)
        ("x86_64", 0xC000003E, 157, (15, 0), ALLOW),  # prctl(PR_SET_NAME)
        ("x86_64", 0xC000003E, 72, (3, 8, 1), EPERM),  # fcntl(F_SETOWN)
        ("x86_64", 0xC000003E, 72, (3, 3), ALLOW),  # fcntl(F_GETFL)
        ("x86_64", 0xC000003E, 0x40000000 + 57, (), ENOSYS),  # fork by the x32 interface
        ("x86_64", 0x40000003, 2, (), KILL),  # any call by the 32-bit interface
        ("aarch64", 0xC00000B7, 63, (), ALLOW),  # read
        ("aarch64", 0xC00000B7, 198, (), EPERM),  # socket
        ("aarch64", 0xC00000B7, 220, (17,), EAGAIN),  # clone
        ("aarch64", 0xC00000B7, 57, (), ALLOW),  # close, whose number is fork's on x86_64
    ],
)
def test_the_filter_of_system_calls(machine, audit, call, arguments, expected):
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    assert run_filter(build_filter(machine), audit, call, padded) == expected


def test_an_unknown_architecture_is_refused():
    with pytest.raises(OSError, match="riscv64 are not known"):
        build_filter("riscv64")

"""Plugin modules: whatever their code does, a command ends in its own way, and says which file."""

from __future__ import annotations

import json

import pytest
from hypothesis import strategies as st

HEAD = """
import functools, math, os, sys, typing
from epi_bench import (
    Example, ExperiencePlan, Strategy, Task, TaskCard, UserError, ask, register_strategy,
    register_stream, register_task,
)
"""
NAMES = [
    "zz", "naïve", "Ж", "名", "zz٣", "ﬁne", "class", "_x", "", "a b", "../x", "\x1b[31m", "epi",
    "mini_math", "sequential", "tiny", "all", "x" * 3000, "None", "con", "\u202ex", 5, None,
]  # fmt: skip
ANNOTATIONS = [
    "", ": 'Nope'", ": 1", ": (lambda: 1)", ": 'int[['", ": int | None", ": list[int]", ": type",
    ": Exception", ": typing.Any", ": typing.Literal[1, 'a']", ": typing.Callable", ": 'x' * 9999",
    ": dict[str, 'list']", ": tuple[int, ...]", ": float", ": bool", ": None", ": typing.Union",
    ": typing.TypeVar('T')", ": object()", ": ...", ": '\\x1b[31m'", ": typing.Annotated[int, 5]",
]  # fmt: skip
DEFAULTS = [
    "", " = 1", " = None", " = object()", " = math.nan", " = -math.inf", " = 'a' * 10**5", " = [1]",
    " = set()", " = b''", " = 10**5000", " = print", " = ...", " = '\\x1b[31m[/red]'", " = {1: 2}",
    " = type('R', (), {'__repr__': lambda s: 1 / 0})()", " = type('E', (), {'__eq__': 5})()",
    " = (1, (2, (3,)))", " = '\\ud800'", " = functools.partial(print)", " = 2**64",
]  # fmt: skip
BODIES = [
    "pass", "raise RuntimeError('no\\n\\x1b[31mred')", "sys.exit(0)", "sys.exit('bye')", "1 / 0",
    "return 5", "raise SystemExit", "raise GeneratorExit", "raise StopIteration",
    "raise MemoryError",
    "self.__class__ = int", "self.context = 5", "del self.x", "return self.__init__()",
    "raise type('B', (BaseException,), {'__str__': lambda s: 1 / 0})()", "print('[/red]')",
    "raise UnicodeDecodeError('utf-8', b'', 0, 1, 'x')", "raise KeyError('\\ud800')", "yield",
    "raise UserError('mine')", "raise ExceptionGroup('g', [ValueError('v')])", "assert False, self",
]  # fmt: skip
MEMBERS = [
    "pass", "__getattr__ = lambda self, name: 5",
    "def __getattr__(self, name): raise ValueError(name)",
    "__slots__ = ('x',)", "acts_from = None", "acts_from = 'x'", "acts_from = math.nan",
    "acts_from = property(lambda self: 1 / 0)", "later_options = 5", "later_options = {'x': 1}",
    "learning_rate_factor = 'x'", "learning_rate_factor = math.nan", "__doc__ = 5",
    "__doc__ = None",
    "__doc__ = '[/red] [link=x] \\x1b[31m \\u202e' * 99", "__module__ = 5", "__module__ = 'os'",
    "__signature__ = 5", "__init__ = 5", "__init__ = print", "__annotations__ = 5", "card = 5",
    "def __new__(cls, *a, **k): return 5", "def __bool__(self): 1 / 0", "__hash__ = None",
    "def __eq__(self, other): 1 / 0", "def __repr__(self): return 5",
    "name = property(lambda s: 1/0)",
    "def __init_subclass__(cls, **k): 1 / 0", "__class_getitem__ = 5", "__call__ = None",
    "def check_run(self, *a): 1 / 0", "def check_run(self): sys.exit(0)", "context = None",
    "def state_dict(self): return {'x': object()}", "__wrapped__ = 5", "__qualname__ = '\\x1b[31m'",
    "card = TaskCard('[/red]', '[blue]', 'generate', 'm', '[/]', max_new_tokens=8)",
    "card = TaskCard('s', 'a', 'choice', 'm', 'l')",
    "card = property(lambda self: 1 / 0)",
    "def examples(self, split): return 5", "def examples(self, split): return [5]",
    "def examples(self, split): return [Example(ask('q [/red]', 'a [/x]'), 'a')] * 4",
    "def examples(self, split): return [Example((), '')] * 4", "def examples(self, split): 1 / 0",
    "def examples(self, split): return [Example(ask('\\ud800', 'a'), 'a')] * 4",
    "def examples(self, split): return [Example(ask(5, None), 7, 'ab')] * 4",
    "def score(self, example, prediction): 1 / 0", "def score(self, e, p): return {'m': math.nan}",
]  # fmt: skip
ENDS = [
    "", "1 / 0", "sys.exit(0)", "sys.exit(3)", "raise GeneratorExit", "def f(: pass", "x = '\0'",
    "x = " + "(" * 300 + ")" * 300, "__file__ = 5", "__name__ = 5", "del __name__",
    "__spec__ = None",
    "sys.modules[__name__] = None", "del sys.modules[__name__]", "def __getattr__(name): 1 / 0",
    "print('\\x1b[31mhello')", "raise ValueError('a\\nb\\n\\x1b[31mred')", "raise MemoryError('m')",
    "def f(): f()\nf()", "raise type('E', (Exception,), {'__str__': lambda s: 1 / 0})()",
    "import epi_bench.spec.streams as s\ns.order_tasks = None", "os.chdir('/')", "import nowhere",
    "import epi_bench\nepi_bench.extra = 1", "sys.argv = []", "from __future__ import nothing",
    "raise ExceptionGroup('g', [ValueError('v')])", "raise UserError('mine\\nyours')", "yield 1",
    "await x", "\tindented", "x: int = None\n__annotations__ = 5",
    "import warnings\nwarnings.warn('w')",
    "class M(type):\n    def __getattr__(cls, name): raise ValueError\nclass X(metaclass=M): pass",
]  # fmt: skip
ROWS = "\n".join(json.dumps({"q": f"question {i}", "a": f"answer {i}"}) for i in range(12))
TASK = (
    'name = "asked"\n[source]\ntrain = "rows.jsonl"\ntest_every = 3\n[example]\n'
    'prompt = "{{ q }}?"\nanswer = "{{ a }}"\n[scoring]\nmode = "teacher_forced"\n'
)
COMMANDS = {
    "strategy": ("strategies", ("run", "--tasks", "asked.toml", "--strategy")),
    "task": ("tasks", ("run", "--tasks")),
    "stream": ("streams", ("run", "--tasks", "asked.toml", "--stream")),
}


@pytest.fixture
def asked(command):
    command.write("rows.jsonl", ROWS)
    return command.write("asked.toml", TASK)


def _class(kind: str, name: object, parameters: str, body: str, members: list[str]) -> str:
    base = "Strategy" if kind == "strategy" else "Task"
    inside = "\n".join(f"    {member}" for member in members)
    first = "" if kind == "strategy" else "data_dir=None, "
    return (
        f"@register_{kind}({name!r})\nclass A({base}):\n{inside}\n"
        f"    def __init__(self, {first}{parameters}):\n        {body}\n"
    )


def _function(name: object, parameters: str, body: str, doc: str) -> str:
    return f"@register_stream({name!r})\ndef a(tasks, {parameters}):\n    {doc!r}\n    {body}\n"


PARAMETERS = st.lists(
    st.tuples(st.sampled_from(ANNOTATIONS), st.sampled_from(DEFAULTS)), max_size=2
).map(lambda drawn: ", ".join(f"x{i}{note}{value}" for i, (note, value) in enumerate(drawn)))
USUAL = st.just("zz")


def test_plugins(fuzz, command, asked):
    classes = st.builds(
        _class,
        st.sampled_from(["strategy", "task"]),
        USUAL | st.sampled_from(NAMES),
        PARAMETERS | st.sampled_from(["*a, **k", "a, /", "*, x", "x"]),
        st.just("pass") | st.sampled_from(BODIES),
        st.lists(st.sampled_from(MEMBERS), min_size=1, max_size=3),
    )
    functions = st.builds(
        _function,
        USUAL | st.sampled_from(NAMES),
        PARAMETERS,
        st.sampled_from([
            "return [ExperiencePlan(t, (t,)) for t in tasks]", "return 5", "return []", "1 / 0",
            "return [5]", "sys.exit(0)", "return [ExperiencePlan('a\\nb', tuple(tasks))]", "pass",
            "return [ExperiencePlan('x', tuple(tasks), budget=math.nan)]", "while True: yield 5",
            "return [ExperiencePlan('x', tuple(tasks), budget=10**400)]", "return {1: 2}",
            "return [ExperiencePlan('x', tuple(tasks), budget=1e300)]", "return tasks",
            "return [ExperiencePlan('x', tuple(tasks), evaluations=10**9)]",
            "return [ExperiencePlan(t, (t,)) for t in tasks] * 99",
        ]),
        st.sampled_from(["", "[/red]", "x\x1b[31m", "Args:\n    x0: [/] y", "\u202e" * 99]),
    )  # fmt: skip
    wrong = st.sampled_from([
        "@register_strategy('zz')\nclass A: pass\n", "@register_strategy('zz')\ndef f(): pass\n",
        "register_strategy('zz')(5)\n", "@register_task('zz')\nclass A(Task): pass\n", "x = 5\n",
        "register_stream('zz')(5)\n",
        "register_strategy('zz')(type('A', (Strategy,), {}))",
        "@register_strategy('zz')\nclass A(Strategy): pass\nregister_strategy('yy')(A)\n",
        "@register_strategy('zz')\nclass A(Strategy): 0\n@register_strategy('zz')\nclass B(A): 0",
        "register_stream('zz')(functools.partial(print))\n", "register_stream('zz')(type)\n",
        "register_stream('zz')(print)\n", "register_strategy('zz')(Strategy)\n", "",
        "class M(type(Strategy)):\n    def __getattr__(c, n): return 5\n"
        "@register_strategy('zz')\nclass A(Strategy, metaclass=M): pass\n",
        "class M(type(Strategy)):\n    def __call__(c, *a): return 5\n"
        "@register_strategy('zz')\nclass A(Strategy, metaclass=M): pass\n",
        "class M(type(Strategy)):\n    def __getattribute__(c, n): raise ValueError(n)\n"
        "@register_strategy('zz')\nclass A(Strategy, metaclass=M): pass\n",
    ])  # fmt: skip
    ends = st.just("") | st.just("") | st.sampled_from(ENDS)

    @fuzz(110, classes | functions | wrong, ends)
    def case(code, end):
        source = f"{HEAD}\n{code}\n{end}\n"
        command.write("plugin.py", source.encode("utf-8", "surrogatepass"))
        for kind, (listing, run) in COMMANDS.items():
            if f"register_{kind}" in code:
                command(listing, "list", "--plugin", "plugin.py")
                command(listing, "show", "zz", "--plugin", "plugin.py")
                command(
                    *run, "zz", "--plugin", "plugin.py", "--steps", 2, "--quiet", "--out", "results"
                )


def test_files_that_are_no_plugins(fuzz, hostile, command):
    @fuzz(60, st.binary(max_size=80) | hostile.text.map(lambda text: text.encode()))
    def case(content):
        command.write("plugin.py", content)
        assert command("strategies", "list", "--plugin", "plugin.py").code == 2

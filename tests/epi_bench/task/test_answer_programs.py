"""Which program an answer holds: a table of answers, and texts that must not take long."""

import time

import pytest

from epi_bench import complete_function, defined_names, python_code
from epi_bench.task.answer_programs import longest_program
from epi_bench.task.text_scores import python_valid

F = "def f(x):\n    return x + 1"
USING = "def f(x):\n    return math.floor(plus(x))"
PLUS = "def plus(x):\n    return x + 1"
IMPORT = "import math"


def fenced(code, language="python", fence="```"):
    return f"{fence}{language}\n{code}\n{fence}"


def blocks(*codes):
    return "\n\nThen:\n".join(map(fenced, codes))


def inset(text, first, rest):
    lines = text.split("\n")
    return "\n".join([first + lines[0], *(rest + line if line else line for line in lines[1:])])


ANSWERS = {
    # One block, or none.
    "bare": F,
    "bare, with Windows line ends": F.replace("\n", "\r\n"),
    "fenced": fenced(F),
    "py": fenced(F, "py"),
    "Python3": fenced(F, "Python3"),
    "attributes": fenced(F, '{.python .numberLines title="f.py"}'),
    "no language": fenced(F, ""),
    "wrong language": fenced(F, "java"),
    "tildes": fenced(F, "python", "~~~"),
    "longer fence": fenced(F, "python", "`````"),
    "never closed": f"```python\n{F}\n",
    "closed without being opened": f"{F}\n```\nThis adds one.",
    "opened twice": f"```\nHere it is:\n{fenced(F)}",
    "code on the fence's line": f"```{F}\n```",
    "one line within back ticks": "Use `f = lambda x: x + 1` here.",
    "prose around": f"Sure! Here's how:\n\n{fenced(F)}\n\nIt's (nearly) done.",
    "prose around, no fence": f"Sure! Here's how:\n\n{F}\n\nIt's (nearly) done.",
    "prose around, no blank line": f"Here you go:\n{F}\nThis adds one.",
    "words that parse": f"python\n{F}\nEnjoy\nNote: this",
    "indented after prose": "Here it is:\n\n" + inset(F, "    ", "    ") + "\n\nThat is all.",
    "a blank before the first line": " " + F,
    # Blocks in other blocks.
    "list item": "1. Write:\n" + inset(fenced(F), "   ", "   ") + "\n2. Run it.",
    "list item, with a blank line in it": "- Write:\n\n  ```python\n  import math\n\n"
    + inset(F, "  ", "  ") + "\n  ```",
    "nested list": "1. a\n   - b\n" + inset(fenced(F), "     ", "     "),
    "quotation": inset(f"Write:\n{fenced(F)}", "> ", "> "),
    "indented in a quotation": "> Write:\n>\n" + inset(F, ">     ", ">     "),
    "after a tag": f"<answer>\n{fenced(F)}\n</answer>",
    # Back ticks that are no fence.
    "back ticks in a docstring": fenced(
        'def f(x):\n    """Use\n    ```\n    f(1)\n    ```\n    """\n    return x + 1'
    ),
    "back ticks in a docstring, bare": 'def f(x):\n    """\n    ```\n    f(1)\n    ```\n    """\n'
    "    return x + 1",
    "back ticks in a module's docstring": fenced(f'"""\n```\nf(1)\n```\n"""\n{F}'),
    "back ticks in a line": fenced(f"TICKS = '```'\n{F}"),
    # Several blocks.
    "usage last": f"{fenced(F)}\nUse it:\n{fenced('print(f(int(input())))')}",
    "usage first": f"You want:\n{fenced('assert f(1) == 3')}\n{fenced(F)}",
    "output last": f"{fenced(F)}\nprints\n{fenced('2', '')}",
    "shell first": f"{fenced('pip', 'sh')}\n{fenced(F)}",
    "imports and a helper first": blocks(IMPORT, PLUS, USING),
    "helper last": blocks(IMPORT, USING, PLUS),
    "star import first": blocks(
        "from math import *", PLUS, "def f(x):\n    return floor(plus(x))"
    ),
    "constant first": blocks("ONE = 1", "def f(x):\n    return x + ONE"),
    "chain of helpers": blocks("def a(x):\n    return b(x)", "def f(x):\n    return a(x)",
                     "def b(x):\n    return x + 1"),
    "helper beside a draft and its failing test": blocks(
        f"{PLUS}\ndef f(x):\n    return x\nassert f(1) == 2; n = input()",
        "def f(x):\n    return plus(x)",
    ),
    "drafts before": blocks("def f(x):\n    return x", F),
    "an empty sketch after": blocks(F, "def f(x):\n    ..."),
    "an older helper before": blocks(
        "def plus(x):\n    return x", PLUS, "def f(x):\n    return plus(x)"
    ),
    "a usage block hides a builtin": blocks(
        "max = 7; print(max)", "def f(x):\n    return max(x, x + 1)"
    ),
    "a later import from the future": blocks(
        PLUS, "from __future__ import annotations\ndef f(x: X) -> X:\n    return plus(x)"
    ),
    "a test that imports it last": blocks(F, "from solution import f\nassert f(1) == 2"),
    "an import without a fence": f"import math\n\n{blocks(PLUS, USING)}",
    # Cut off, and other forms.
    "byte order mark": "\ufeff" + F,
    "defined in a loop": fenced(f"for _ in 'ab':\n{inset(F, '    ', '    ')}"),
    "cut off in its last statement": f"```python\n{F}\n\nprint(f(1), f(",
    "cut off in a second block": f"{fenced(F)}\n```python\nassert f(1",
    "class": "```python\nclass f(int):\n    def __new__(cls, x):\n        return x + 1\n```",
    "assignment": "Take\n\nf = (\n    lambda x: x + 1\n)\n\nas I said.",
    "decorated, no fence": f"Take this one:\n@staticmethod\n{F}\nand be happy.",
    "with else, no fence": "Take this one:\nif True:\n    def f(x):\n        return x + 1\n"
    "else:\n    f = None\nand be happy.",
    "long string, no fence": f"Take this one:\nTEXT = '''\nIt's (not code\n'''\n{F}\nand be happy.",
    "helper after other prose": f"First a helper, as said:\n{PLUS}\nThen the function itself:\n"
    "def f(x):\n    return plus(x)\nThat's all.",
    "transcript": ">>> def f(x):\n...     return x + 1\n...\n>>> f(1)\n2",
    "fenced transcript": fenced(">>> def f(x):\n...     return x + 1\n...\n>>> f(1)\n2", "pycon"),
}  # fmt: skip


def run(code):
    namespace = {}
    exec(compile(code, "program", "exec", dont_inherit=True), namespace)
    return namespace["f"](1)


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_the_program_is_found_where_it_is(answer):
    assert run(python_code(answer, ["f"])) == 2


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_the_same_answers_complete_a_function(answer):
    assert run(complete_function('def f(x):\n    """Add one."""\n', "f", answer)) == 2


def test_there_are_enough_answers():
    assert len(ANSWERS) >= 40


BODY = "    total = x\n\n    total += 1\n    return total"


@pytest.mark.parametrize(
    "answer",
    [
        BODY,
        BODY.strip(),
        fenced(BODY),
        fenced("return x + 1", ""),
        f"The body is:\n\n{fenced(BODY, '')}\nIt adds one.",
        f"{BODY}\n\nThis adds one to x.",
        f"{BODY}\n```\n\nThis adds one.",
        "return x + 1\n```\nThis adds one.",
        f"{fenced('total(', 'text')}\n{fenced(BODY)}",
        "    def inner(y):\n        return y + 1\n\n    return inner(x)",
    ],
)
def test_a_body_alone_completes_a_function(answer):
    assert run(complete_function('def f(x):\n    """Add one."""\n', "f", answer)) == 2


def test_several_names_may_be_defined_in_several_blocks():
    answer = blocks("class Pair:\n    pass", F, "print(f(Pair()))")
    code = python_code(answer, ["f", "Pair"])
    assert defined_names(code) == {"f", "Pair"}
    assert "print" not in code


def test_usage_in_the_programs_own_block_stays():
    assert python_code(fenced(f"{F}\nprint(f(1))"), ["f"]) == f"{F}\nprint(f(1))\n"


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("```sh\nls\n```\nthen\n```Python\nx = 1\n```", "x = 1\n"),
        ("x = 1", "x = 1"),
        (f"{fenced('x = 1')}\n{fenced(F)}", f"{F}\n"),
        (blocks("ONE = 1", "def g(x):\n    return x + ONE"),
         "ONE = 1\n\n\ndef g(x):\n    return x + ONE\n"),
        (f"Sure, here it is.\n{F}\nIt adds one.", f"{F}\n"),
        (fenced("f(1"), "f(1\n"),
        ("I can't do that.\nSorry", "I can't do that.\nSorry"),
        ('printf("a");\nint x = 1;\nx = 2;', 'printf("a");\nint x = 1;\nx = 2;'),
        ("", ""),
    ],
)  # fmt: skip
def test_without_a_name_the_longest_part_that_parses_is_the_program(answer, program):
    assert python_code(answer) == program
    # So it is where nothing defines the name.
    assert python_code(answer, ["unknown"]) == program


SIZE = 300_000
HOSTILE = {
    "back ticks": "`" * SIZE,
    "fences": "```\n" * (SIZE // 4),
    "unclosed strings": "'''a b\n\"\"\"\n" * (SIZE // 11),
    "one unclosed string": "'''\n" + "a b\n" * (SIZE // 4),
    "unclosed brackets": "x = (\n" * (SIZE // 6),
    "decorators": "@a\n" * (SIZE // 3),
    "half functions": "def f(x:\n" * (SIZE // 9),
    "list items": "1. a\n" * (SIZE // 5),
    "quotations": ">" * SIZE,
    "attributes": "f = a" + ".b" * (SIZE // 2),
    "signs": "f = " + "-" * SIZE + "1",
    "brackets": "f = " + "(" * SIZE,
    "nested blocks": "".join(" " * depth + "if f:\n" for depth in range(700)),
    "NUL": "def f(x):\n    return x\0\n" * (SIZE // 24),
    "half a surrogate": "f = '\ud800'\n" * (SIZE // 8),
    "one long line": "x" * SIZE,
    "empty lines": "\n" * SIZE,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_text_takes_long(text):
    started = time.process_time()
    python_code(text, ["f"])
    assert time.process_time() - started < 3


@pytest.mark.parametrize("text", ["x = 1\x00", "\ud800", "f = '\ud800'", "\x00", "\ufeffx = 1"])
def test_odd_characters_are_no_error(text):
    assert isinstance(longest_program(text), str)
    assert 0 <= python_valid(text) <= 1
    assert isinstance(complete_function("def f(x):\n", "f", text), str)

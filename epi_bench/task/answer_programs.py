"""Finding the Python program in what a model wrote: by what parses and defines, not by position."""

from __future__ import annotations

import ast
import codeop
import re
import textwrap
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from epi_bench.task.python_source import (
    EVERY_NAME,
    PythonSource,
    parsed,
    read_source,
    without_uses,
)

LONGEST_ANSWER = 30_000
"""Characters of an answer that are looked at; no program of a task comes near."""

_MOST_PARSED = 5 * LONGEST_ANSWER
"""Characters that are given to the parser in one search for code between prose."""

_PYTHON = re.compile(r"\{?\s*\.?i?py", re.IGNORECASE)
_FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)
_CONTINUES = re.compile(r"(?:else|elif|except|finally)\b|[)\]}]")
_FENCE = re.compile(r"^ {0,3}(?:```|~~~)", re.MULTILINE)
_LONG_QUOTES = ('"""', "'''")
_PROMPTS = (">>>", "...")


@dataclass(frozen=True, slots=True)
class _Block:
    """A fenced block: what the fence says (``info``) and what lies in it."""

    info: str
    content: str

    @property
    def marked(self) -> bool:
        """Whether it is said to be Python, in any of the usual spellings."""
        return bool(_PYTHON.match(self.info))


def python_code(text: str, names: Collection[str] = ()) -> str:
    """The Python program in a text.

    The text is read as Markdown (CommonMark). Of its fenced blocks, those that define ``names``
    are the program, the last one where several define the same (drafts come before), and with
    them those that define what they use: imports, helper functions, constants. Blocks that only
    use the program, or show what it prints, are left out. Without such blocks the lines between
    the prose count that parse, then indented blocks and transcripts of the interactive Python.

    Args:
        text: What the model wrote; characters beyond :data:`LONGEST_ANSWER` are not looked at.
        names: What the program must define on its outermost level. If nothing does, or no name is
            given: the longest block that parses, with those that define what it uses; of lines
            between prose only functions and classes. Blocks marked as Python go before others.

    Returns:
        The program, or where nothing parses the first block, else the text as it is.
    """
    found = find_program(text, frozenset(names)) if names else None
    return longest_program(text) if found is None else found


def find_program(text: str, names: frozenset[str]) -> str | None:
    """The program that defines all of ``names``; ``None`` if there is none."""
    text = _readable(text)
    whole = read_source(text)
    if whole and names <= whole.defines and not any(map(_is_prose, ast.parse(text).body)):
        return text
    blocks = fenced_blocks(text)
    searches: tuple[Callable[[], list[PythonSource]], ...] = (
        lambda: [
            *(code_between_prose(_without_blocks(text)) if blocks else ()),
            *(source for block in blocks for source in _sources(block)),
        ],
        lambda: code_between_prose(text),
        lambda: _known(*(token.content for token in _code_tokens(text)), _transcript(text)),
    )
    for search in searches:
        parts = search()
        if names and names <= {name for part in parts for name in part.defines}:
            return _assembled(parts, {_definer(parts, name) for name in names}, names)
    return None


def longest_program(text: str) -> str:
    """The longest part of a text that is a program, else its first block, else the text."""
    readable = _readable(text)
    if read_source(readable):
        return text
    blocks = fenced_blocks(readable)
    marked = [block for block in blocks if block.marked]
    pool = marked or [block for block in blocks if not block.info] or blocks
    whole = [source for block in pool if (source := read_source(block.content))]
    parts = whole or [s for block in pool for s in _sources(block) if s.defines_code]
    if not blocks:
        parts = [source for source in code_between_prose(readable) if source.defines_code]
    if not parts:
        return pool[0].content if pool else text
    longest = max(range(len(parts)), key=lambda position: len(parts[position].code))
    return _assembled(parts, {longest}, frozenset())


def complete_function(stub: str, name: str, answer: str) -> str:
    """The program that an answer to "complete this function" makes.

    An answer that defines the function (see :func:`python_code`) follows the stub, whose imports
    and helper functions it may need. Where it does not, it is the function's body, fenced or not;
    a body that was written without its indentation gets it back.

    Args:
        stub: Imports, helper functions, and the function's signature and docstring.
        name: The function's.
        answer: What the model wrote.
    """
    whole = find_program(answer, frozenset({name}))
    if whole is not None:
        return _joined([f"{stub.rstrip()}\n", f"{whole.rstrip()}\n"])
    programs = [f"{stub.rstrip()}\n{_as_body(code)}\n" for code in _bodies(answer)]
    return next((program for program in programs if parsed(program) is not None), programs[0])


def fenced_blocks(text: str) -> list[_Block]:
    """The blocks between fences of back ticks or tildes, also in lists and quotations."""
    return [
        _Block(token.info.strip(), token.content)
        for token in _markdown(inline=False).parse(text)
        if token.type == "fence"
    ]


def code_between_prose(text: str) -> list[PythonSource]:
    """The runs of lines that parse, each as long as can be.

    Lines that are Python only by chance (a word, ``Note: this``) end a run. A statement that is
    cut off is left out whole.
    """
    lines = text.split("\n")
    runs: list[str] = []
    run: list[str] = []
    depth, position, budget = 0, 0, _MOST_PARSED
    while position < len(lines) and budget > 0:
        indentation = _indentation(lines[position])
        if indentation is None:
            run.append("")
            position += 1
            continue
        end, spent = _statement_end(lines, position, indentation, budget)
        budget -= spent
        if end is None or indentation != depth:
            runs.append("\n".join(run))
            run, depth = [], indentation
        if end is not None:
            run += _dedented(lines[position:end], indentation)
        position = end or position + 1
    return _known(*runs, "\n".join(run))


def _readable(text: str) -> str:
    text = text[:LONGEST_ANSWER].removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _without_blocks(text: str) -> str:
    """The text with empty lines for its fenced blocks: what they use may stand before them."""
    lines = text.split("\n")
    for token in _markdown(inline=False).parse(text):
        if token.type == "fence":
            first, end = token.map
            lines[first:end] = [""] * (end - first)
    return "\n".join(lines)


def _known(*codes: str) -> list[PythonSource]:
    return [source for code in codes if (source := read_source(code.strip("\n") + "\n"))]


def _sources(block: _Block) -> list[PythonSource]:
    """What of a block is Python: all of it, what is typed in a transcript, or the runs that are."""
    whole = read_source(block.content)
    if whole:
        return [whole]
    # Where the code begins on the fence's own line, Markdown takes that line for a language.
    if " " in block.info and (whole := read_source(f"{block.info}\n{block.content}")):
        return [whole]
    return _known(_transcript(block.content)) or code_between_prose(block.content)


def _definer(parts: Sequence[PythonSource], name: str) -> int:
    """The last part that defines a name, and not only by an empty function if that can be."""
    definers = [i for i, part in enumerate(parts) if name in part.defines]
    return max(definers, key=lambda i: (name not in parts[i].hollow, i))


def _assembled(parts: Sequence[PythonSource], chosen: set[int], names: frozenset[str]) -> str:
    """The chosen parts, after those that define what they use.

    Of the latter, statements that use the program or wait for input are left out: they show or
    try drafts.
    """
    helpers: set[int] = set()
    waiting = sorted(chosen)
    while waiting:
        position = waiting.pop()
        for name in sorted(parts[position].reads):
            provider = _provider(parts, position, name, chosen | helpers)
            if provider is not None:
                helpers.add(provider)
                waiting.append(provider)
    codes = [without_uses(parts[i].code, names | {"input"}) for i in sorted(helpers)]
    return _joined([*codes, *(parts[i].code for i in sorted(chosen))])


def _provider(
    parts: Sequence[PythonSource], position: int, name: str, present: set[int]
) -> int | None:
    """The part to add for a name that is read at ``position``: the nearest before it, or after."""
    definers = [i for i, part in enumerate(parts) if name in part.defines]
    if not definers:
        definers = [i for i in range(position) if EVERY_NAME in parts[i].defines]
    if not definers or present.intersection(definers):
        return None
    before = [i for i in definers if i < position]
    return max(before) if before else min(definers)


def _joined(codes: Sequence[str]) -> str:
    """Sources one after the other, with ``from __future__`` lines where they must stand."""
    future = dict.fromkeys(line.strip() for code in codes for line in _FUTURE.findall(code))
    if not future:
        return "\n\n".join(codes)
    rest = "\n\n".join(_FUTURE.sub("", code) for code in codes)
    return "\n".join([*future, rest])


def _bodies(answer: str) -> Iterator[str]:
    """What may be the body of a function in an answer that does not define it."""
    text = _readable(answer)
    blocks = [block for block in fenced_blocks(text) if block.content.strip()]
    yield from (b.content for b in sorted(blocks, key=lambda block: not block.marked))
    fence = _FENCE.search(text)
    for code in (text, text[: fence.start()] if fence else text):
        yield code
        lines = code.strip("\n").split("\n")
        if _indentation(lines[0]):
            ends = (i for i, line in enumerate(lines) if _indentation(line) == 0)
            yield "\n".join(lines[: next(ends, len(lines))])


def _as_body(code: str) -> str:
    body = code.rstrip().strip("\n")
    if body.startswith("\t"):
        body = textwrap.dedent(body)
    return body if body.startswith(" ") else _indented(body)


def _indented(body: str) -> str:
    """A body with four blanks before each line, or before the first line alone.

    Answers that begin with a blank lose it where a tokenizer or chat template strips them, so the
    first line's indentation may be gone and the others' still there.
    """
    first_alone = f"    {body}"
    tree = parsed(f"def f():\n{first_alone}")
    if tree is not None and len(tree.body) == 1:
        return first_alone
    return textwrap.indent(body, "    ")


def _transcript(text: str) -> str:
    """What was typed in a transcript of the interactive Python; empty for any other text."""
    lines = [line.strip() for line in text.split("\n")]
    return "\n".join(line[4:] for line in lines if line[:4].strip() in _PROMPTS)


def _statement_end(
    lines: list[str], start: int, indentation: int, budget: int
) -> tuple[int | None, int]:
    """The line after the statement that begins at a line, ``None`` if there is none.

    Returns:
        The line, and the characters that were parsed to find it.
    """
    end, spent = _clause_end(lines, start, indentation), 0
    while spent < budget:
        code = "\n".join(_dedented(lines[start:end], indentation)) + "\n"
        spent += len(code)
        tree = _statements(code)
        if isinstance(tree, ast.Module):
            return (None if any(map(_is_prose, tree.body)) else end), spent
        if tree is None or end == len(lines):
            return None, spent
        following = _clause_end(lines, end, indentation)
        text = code + "\n".join(lines[end:following])
        inside = [text.count(quotes) % 2 == 1 for quotes in _LONG_QUOTES]
        end = following
        while any(inside) and end < len(lines):  # on to the line that ends the string
            changes = [lines[end].count(quotes) % 2 == 1 for quotes in _LONG_QUOTES]
            inside = [now != change for now, change in zip(inside, changes, strict=True)]
            end += 1
        end = _clause_end(lines, end - 1, indentation)
    return None, spent


def _clause_end(lines: list[str], start: int, indentation: int) -> int:
    """The line after a line and what is indented below it, ``else`` and the like with theirs."""
    end = last = start + 1
    while end < len(lines):
        depth = _indentation(lines[end])
        if depth is not None:
            continues = depth == indentation and _CONTINUES.match(lines[end].lstrip())
            if depth <= indentation and not continues:
                break
            last = end + 1
        end += 1
    return last


def _statements(code: str) -> ast.Module | str | None:
    """The syntax tree, ``"incomplete"`` if more lines may complete it, or ``None``."""
    flags = ast.PyCF_ONLY_AST | codeop.PyCF_ALLOW_INCOMPLETE_INPUT  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree: ast.Module = compile(code, "program", "exec", flags, dont_inherit=True)
    except SyntaxError as error:
        return "incomplete" if error.msg == "incomplete input" else None
    except (ValueError, RecursionError, MemoryError):
        return None
    return tree


def _is_prose(statement: ast.stmt) -> bool:
    """Whether a statement does nothing in a program: words of prose can look like one."""
    if isinstance(statement, ast.Expr):
        value = statement.value
        text = isinstance(value, ast.Constant) and isinstance(value.value, str)
        acts = (ast.Call, ast.Await, ast.NamedExpr)
        return not text and not any(isinstance(node, acts) for node in ast.walk(value))
    if isinstance(statement, ast.AnnAssign):
        return statement.value is None
    return isinstance(statement, ast.Return)


def _indentation(line: str) -> int | None:
    """Blanks and tabs before a line's text; ``None`` for a line without text."""
    text = line.lstrip()
    return len(line) - len(text) if text else None


def _dedented(lines: Sequence[str], indentation: int) -> list[str]:
    return [
        line[indentation:] if not line[:indentation].strip() else line.lstrip() for line in lines
    ]


def _code_tokens(text: str) -> Iterator[Any]:
    """Indented blocks, and code within lines."""
    for token in _markdown(inline=True).parse(text):
        if token.type == "code_block":
            yield token
        yield from (inner for inner in token.children or () if inner.type == "code_inline")


@lru_cache
def _markdown(inline: bool) -> Any:
    """A parser of what matters here: HTML and link definitions could hide a block."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").disable(["html_block", "reference", "heading", "lheading"])
    parser.core.ruler.enableOnly(["normalize", "block", *(["inline"] if inline else [])])
    parser.inline.ruler.enableOnly(["text", "backticks"])
    return parser

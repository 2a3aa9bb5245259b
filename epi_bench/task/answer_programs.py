"""Finding the Python program in what a model wrote: by what parses and defines, not by position."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Collection, Iterator

from epi_bench.task.code_in_prose import code_between_prose, indentation_of, is_prose
from epi_bench.task.markdown_code import FencedBlock, fenced_blocks, unfenced_code, without_blocks
from epi_bench.task.program_parts import assembled, definer, joined
from epi_bench.task.python_source import PythonSource, parsed, read_source, read_sources

LONGEST_ANSWER = 30_000
"""Characters of an answer that are looked at; no program of a task comes near."""

_FENCE = re.compile(r"^ {0,3}(?:```|~~~)", re.MULTILINE)
_PROMPTS = (">>>", "...")


def python_code(text: str, names: Collection[str] = ()) -> str:
    """The Python program in a text.

    The text is read as Markdown (CommonMark). Of its fenced blocks, those that define ``names``
    are the program, the last one where several define the same (drafts come before), and with
    them those that define what they use: imports, helper functions, constants. Blocks that only
    use the program, or show what it prints, are left out. Without such blocks the lines between
    the prose count that parse, then indented blocks and transcripts of the interactive Python.

    >>> python_code("Sure:\\n```python\\ndef f(x):\\n    return x\\n```\\nDone.", ["f"])
    'def f(x):\\n    return x\\n'

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
    if whole and names <= whole.defines and not any(map(is_prose, ast.parse(text).body)):
        return text
    blocks = fenced_blocks(text)
    searches: tuple[Callable[[], list[PythonSource]], ...] = (
        lambda: [
            *(code_between_prose(without_blocks(text)) if blocks else ()),
            *(source for block in blocks for source in _sources(block)),
        ],
        lambda: code_between_prose(text),
        lambda: read_sources(*unfenced_code(text), _transcript(text)),
    )
    for search in searches:
        parts = search()
        if names and names <= {name for part in parts for name in part.defines}:
            return assembled(parts, {definer(parts, name) for name in names}, names)
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
    return assembled(parts, {longest}, frozenset())


def complete_function(stub: str, name: str, answer: str) -> str:
    """The program that an answer to "complete this function" makes.

    An answer that defines the function (see :func:`python_code`) follows the stub, whose imports
    and helper functions it may need. Where it does not, it is the function's body, fenced or not;
    a body that was written without its indentation gets it back.

    >>> complete_function("def f(x):", "f", "return x")
    'def f(x):\\n    return x\\n'

    Args:
        stub: Imports, helper functions, and the function's signature and docstring.
        name: The function's.
        answer: What the model wrote.
    """
    whole = find_program(answer, frozenset({name}))
    if whole is not None:
        return joined([f"{stub.rstrip()}\n", f"{whole.rstrip()}\n"])
    programs = [f"{stub.rstrip()}\n{_as_body(code)}\n" for code in _bodies(answer)]
    return next((program for program in programs if parsed(program) is not None), programs[0])


def _readable(text: str) -> str:
    text = text[:LONGEST_ANSWER].removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _sources(block: FencedBlock) -> list[PythonSource]:
    """What of a block is Python: all of it, what is typed in a transcript, or the runs that are."""
    whole = read_source(block.content)
    if whole:
        return [whole]
    # Where the code begins on the fence's own line, Markdown takes that line for a language.
    if " " in block.info and (whole := read_source(f"{block.info}\n{block.content}")):
        return [whole]
    return read_sources(_transcript(block.content)) or code_between_prose(block.content)


def _transcript(text: str) -> str:
    """What was typed in a transcript of the interactive Python; empty for any other text."""
    lines = [line.strip() for line in text.split("\n")]
    return "\n".join(line[4:] for line in lines if line[:4].strip() in _PROMPTS)


def _bodies(answer: str) -> Iterator[str]:
    """What may be the body of a function in an answer that does not define it."""
    text = _readable(answer)
    blocks = [block for block in fenced_blocks(text) if block.content.strip()]
    yield from (b.content for b in sorted(blocks, key=lambda block: not block.marked))
    fence = _FENCE.search(text)
    for code in (text, text[: fence.start()] if fence else text):
        yield code
        lines = code.strip("\n").split("\n")
        if indentation_of(lines[0]):
            ends = (i for i, line in enumerate(lines) if indentation_of(line) == 0)
            yield "\n".join(lines[: next(ends, len(lines))])


def _as_body(code: str) -> str:
    body = code.rstrip().strip("\n")
    if body.startswith("\t"):
        body = textwrap.dedent(body)
    return body if body.startswith(" ") else _indented(body)


def _indented(body: str) -> str:
    """A body with four spaces before each line, or before the first line alone.

    Answers that begin with a space lose it where a tokenizer or chat template strips them, so the
    first line's indentation may be gone and the others' still there.
    """
    first_alone = f"    {body}"
    tree = parsed(f"def f():\n{first_alone}")
    if tree is not None and len(tree.body) == 1:
        return first_alone
    return textwrap.indent(body, "    ")

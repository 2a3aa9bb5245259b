"""What every fuzz test needs: hostile values, the command in this process, and what is asked of it.

A case is one input. For each the command must end within its time, with exit code 0, or with exit
code 2 and a line that says what is wrong; it must not raise, and must not leave a file behind.

The cases are the same each time. ``EPI_BENCH_FUZZ_SEED=7`` draws others, and with
``EPI_BENCH_FUZZ_FACTOR=9``
nine times as many; the seed is printed at the end, and a failing case with what repeats it.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import io
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import tomli_w
import typer
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from epi_bench.errors import LONGEST_LINE, UserError
from epi_bench.foreign_text import for_terminal

SEED = int(os.environ.get("EPI_BENCH_FUZZ_SEED", "0"))
FACTOR = float(os.environ.get("EPI_BENCH_FUZZ_FACTOR", "1"))

SECONDS = 60
"""A case may take; the slowest takes one second on an idle machine."""

STARTED = "the training would start now"
"""What a run is ended with in place of its training."""

GO_ON = "EPI_BENCH_FUZZ_GO_ON" in os.environ
"""Whether failures are listed at the end, each kind once, instead of failing the test."""

FOUND: dict[str, tuple[str, str]] = {}
"""Where a case failed first -> what was drawn, and the error."""

COUNTS: Counter[str] = Counter()
"""Cases by what became of them."""


def pytest_terminal_summary(terminalreporter) -> None:
    for place, (drawn, error) in FOUND.items():
        terminalreporter.write_line(f"fuzz: {place}: {drawn}: {error}")
    if COUNTS:
        told = ", ".join(f"{count} {what}" for what, count in sorted(COUNTS.items()))
        terminalreporter.write_line(
            f"fuzz: {COUNTS['cases']} cases (EPI_BENCH_FUZZ_SEED={SEED}, factor {FACTOR:g}): {told}"
        )


@pytest.fixture(scope="session")
def fuzz():
    """Draws cases: ``@fuzz(200, strategy)`` above a function runs it with 200 drawn values."""

    def make(cases: int, *strategies: st.SearchStrategy) -> Callable:
        def run(case: Callable) -> None:
            def counted(drawn) -> None:
                COUNTS["cases"] += 1
                try:
                    with time_limit():
                        case(*drawn)
                except Exception as error:
                    if not GO_ON:
                        raise
                    FOUND.setdefault(place_of(error), (repr(drawn)[:600], repr(error)[:600]))

            settings(
                max_examples=max(1, int(cases * FACTOR)),
                deadline=None,  # it would only be looked at afterwards: see time_limit
                database=None,
                print_blob=True,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            )(seed(SEED)(given(st.tuples(*strategies))(counted)))()

        return run

    return make


def place_of(error: BaseException) -> str:
    """The line of the package that raised an error, or of the check that failed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/epi_bench/" in frame.filename]
    last = (own or frames)[-1]
    kind = f"{frames[-1].name}:{frames[-1].lineno}"
    return f"{Path(last.filename).name}:{last.lineno} {type(error).__name__} {kind}"


class _TooLongError(BaseException):
    """A case takes too long."""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """End a case that hangs, and fail: also where the code under test swallows the end."""
    expired = []

    def expire(*_arguments) -> None:
        expired.append(traceback.format_stack()[-12:])
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 5)  # again, where a handler swallowed the first
    try:
        yield
    except _TooLongError:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not expired, f"more than {SECONDS} s:\n{''.join(expired[0])}"


@dataclass
class Ended:
    """How a command ended."""

    code: int
    output: str
    error: str

    @property
    def started(self) -> bool:
        return STARTED in self.error

    @property
    def lines(self) -> list[str]:
        return [line for line in self.error.splitlines() if line.strip()]


@dataclass
class Command:
    """The command in this process, in a folder of its own.

    Attributes:
        folder: The working folder.
    """

    folder: Path
    forget: Callable[[], None]
    _known: set[Path] = field(default_factory=set)

    def write(self, name: str, content: str | bytes) -> Path:
        """Write an input."""
        path = self.folder / name
        encoded = content.encode() if isinstance(content, str) else content
        path.write_bytes(encoded)
        self._known.add(path)
        return path

    def __call__(self, *arguments: object) -> Ended:
        """Run the command and check what holds for every input."""
        from epi_bench.cli.app import main

        output, error = io.StringIO(), io.StringIO()
        given, sys.argv = sys.argv, ["epi-bench", *map(str, arguments)]
        folder = Path.cwd()
        os.chdir(self.folder)
        code: object = 0
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
                main()
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            os.chdir(folder)
            sys.argv = given
            self.forget()
        ended = Ended(code, output.getvalue(), error.getvalue())  # type: ignore[arg-type]
        self._check(ended)
        return ended

    def _check(self, ended: Ended) -> None:
        assert ended.code in (0, 2), ended
        COUNTS["accepted" if ended.code == 0 or ended.started else "refused"] += 1
        assert "Traceback" not in ended.error + ended.output, ended
        if ended.code == 2:
            assert ended.lines, "refused without a word"
            assert all(line.startswith("epi-bench: ") for line in ended.lines), ended
        for line in ended.error.splitlines():
            assert line == for_terminal(line), ended
            assert len(line) < LONGEST_LINE + 200, "a line that fills the screen"
        left = {path for path in self.folder.rglob("*") if path.is_file()} - self._known
        assert not left, f"left behind: {left}"


@pytest.fixture
def command(tmp_path, monkeypatch, forgotten_plugins) -> Command:
    """Calls the command; a run stops where its training would begin."""
    from epi_bench.cli import app
    from epi_bench.model import load
    from epi_bench.plugins import registry

    def stop(*_arguments, **_keywords) -> None:
        raise UserError(STARTED)

    monkeypatch.setattr(load, "load_backbone", stop)
    # Both are the same at each call, and take longer than all else.
    monkeypatch.setattr(app, "app", typer.main.get_command(app.app))
    monkeypatch.setattr(registry, "entry_points", lru_cache(registry.entry_points))
    monkeypatch.setenv("HOME", str(tmp_path))
    return Command(tmp_path, forgotten_plugins)


@pytest.fixture(scope="session")
def hostile() -> SimpleNamespace:
    """Strategies for values that nobody would write, and some that everybody would."""
    return SimpleNamespace(
        text=TEXT,
        toml_value=TOML_VALUE,
        json_value=JSON_VALUE,
        raw_toml=RAW_TOML,
        toml=toml_text,
        put=put,
    )


WORDS = [
    "", " ", "\0", "a\nb", "../x", "/etc/passwd", "/dev/zero", "\x1b[31mred", "nan", "inf", "-inf",
    "1e999", "1e-400", "-0.0", "x" * 3000, "[red]", "[/]", "é", "\u202eabc", "\ufeff", "{{ 7*7 }}",
    "tiny", "none", "null", "true", "all", "-", "--", "%s", "$HOME", "~", "~nobody/x", "*", "a,b",
    "1_000", "0x10", "１", "٣", " 1", "1 ", "9" * 5000, "-" + "9" * 5000, "mini", "epi",
    "mini_math",    "CON", "nul.json", "1000000000", "1000000000000000000", "18446744073709551616",
    "0", "-1",
    "0.5", "a/b", "a\\b", ".", "..", "\u2028", "\U0001f4a5", "'; DROP TABLE", "{}", "[]",
]  # fmt: skip
TEXT = st.one_of(
    st.sampled_from(WORDS), st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
)
NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 2, 3, 10**9, 10**18, 2**31, 2**32, 2**63 - 1, 2**63, -(2**63)]),
    st.integers(-(2**70), 2**70),
    st.floats(),
)
_DATES = st.sampled_from(
    [datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1), datetime.time(1, 2)]
)
_KEYS = st.sampled_from(["a", "name", "steps", "x y", "", "options", "\u202e"])


def _nested(leaves: st.SearchStrategy) -> st.SearchStrategy:
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=3),
        max_leaves=6,
    )


JSON_VALUE = _nested(st.none() | st.booleans() | NUMBERS | TEXT)
TOML_VALUE = _nested(st.booleans() | NUMBERS | TEXT | _DATES)

RAW_TOML = [
    "1" + "0" * 5000, "0x" + "f" * 5000, "[" * 3000, "[" * 200 + "1" + "]" * 200,
    "{a=" * 300 + "1" + "}" * 300, "1e99999", "+nan", "-inf", "'" + "y" * 20000 + "'", '"\\u0000"',
    "1979-05-27T07:32:00Z", "99999-01-01", '"""', "", "{", "[1, 'a', {b = 2}]", '"\\ud800"', "01",
]  # fmt: skip
"""Values that no writer of TOML makes, some of them no TOML at all."""


def put(content: dict, place: Sequence[str], value: object) -> None:
    """Set a value at a place of nested tables; what is in the way is replaced."""
    for part in place[:-1]:
        if not isinstance(content.get(part), dict):
            content[part] = {}
        content = content[part]
    content[place[-1]] = value


def toml_text(content: dict, raw: Mapping[Sequence[str], str]) -> str:
    """A TOML file with raw values in some places."""
    marked = copy.deepcopy(content)
    for number, place in enumerate(raw):
        put(marked, place, f"raw value {number} ")
    text = tomli_w.dumps(marked)
    for number, value in enumerate(raw.values()):
        text = text.replace(f'"raw value {number} "', value)
    return text

"""Each command with hostile text in everything that it shows: only visible text comes out."""

from __future__ import annotations

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from markdown_it import MarkdownIt

from epi_bench.results.leaderboard import publish
from epi_bench.results.record.record_file import save_record

HOSTILE = (
    "[red]x[/red] [/] [link=http://e.org]l[/link] :skull: \x1b[31mred\x1b]0;t\x07 \x9b2J "
    "\u202egro\u2066 \u200bz\r <script>alert(1)</script> a\\|b `c` ![i](http://e.org) $x_{$"
)
"""What terminal, rich, Markdown, HTML and mathtext would obey, in one line."""

SHOWN = r"\x1b[31mred\x1b]0;t\x07 \x9b2J \u202egro\u2066 \u200bz"
"""A part of it as it must be read."""

ROW = "[red]x[/red] [/] \x1b[31mred\x1b]0;t\x07\n\t\x9b2J \u202egro\u2066 \u200bz :skull:"
"""Short enough for a small model."""

PLUGIN = f"""
from epi_bench import (
    Example, Strategy, Task, TaskCard, ask, register_strategy, register_stream, register_task
)

HOSTILE = {HOSTILE!r}
ROW = {ROW!r}


@register_strategy("hostile_strategy")
class HostileStrategy(Strategy):
    def __init__(self, note: str = HOSTILE) -> None:
        pass

    def check_run(self, training, steps):
        raise ValueError(HOSTILE + "\\n" + HOSTILE)

    __doc__ = HOSTILE + "\\n\\n- " + HOSTILE + "\\n\\nArgs:\\n    note: " + HOSTILE


@register_task("hostile_task")
class HostileTask(Task):
    __doc__ = HOSTILE
    card = TaskCard(
        summary=HOSTILE, ability=HOSTILE, scoring="generate", metric=HOSTILE, licence=HOSTILE,
        max_new_tokens=4,
    )

    def __init__(self, data_dir=None, note: str = HOSTILE) -> None:
        super().__init__(data_dir)

    def examples(self, split):
        return [Example(ask(ROW, ROW), ROW)] * 8

    def score(self, example, prediction):
        return {{HOSTILE: 0.0}}

    def prepare_scoring(self):
        return [HOSTILE]


@register_task("hostile_chat")
class HostileChat(HostileTask):
    card = TaskCard(
        summary=HOSTILE, ability="chat", scoring="generate", metric=HOSTILE, licence=HOSTILE,
        max_new_tokens=4,
    )


@register_stream("hostile_stream")
def hostile_stream(tasks, note: str = HOSTILE):
    raise ValueError(HOSTILE)


hostile_stream.__doc__ = HOSTILE
"""

BROKEN = f"raise ValueError({HOSTILE!r})\n"

TASK_FILE = f"""
name = "wild"
summary = {json.dumps(HOSTILE)}
scoring = "choice"

[train]
path = "rows.jsonl"

[test]
path = "rows.jsonl"

[template]
prompt = "{{{{ question }}}}"
options = ["{{{{ first }}}}", "no"]
answer = "{{{{ first }}}}"
"""


def obeyed(text):
    """What of an output is more than visible text and line feeds."""
    return [
        character
        for character in text
        if (not character.isprintable() and character not in "\n\u00a0") or character == "\u200b"
    ]


def tags(source):
    """Kinds of Markdown that its reader makes more than text of."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(source)
    inner = [child.type for token in tokens for child in token.children or ()]
    kinds = {*inner, *(token.type for token in tokens)}
    return {k for k in kinds if k.startswith(("html", "image", "link", "code", "fence", "em_"))}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder whose files are hostile, in name or content."""
    monkeypatch.chdir(tmp_path)
    Path("plugin.py").write_text(PLUGIN, encoding="utf-8")
    Path("broken.py").write_text(BROKEN, encoding="utf-8")
    Path(f"file{HOSTILE.replace('/', '')}.toml").write_text(TASK_FILE, encoding="utf-8")
    Path("wild.toml").write_text(TASK_FILE, encoding="utf-8")
    rows = [{"question": f"{HOSTILE}\n{number}", "first": HOSTILE} for number in range(8)]
    Path("rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tmp_path


@pytest.fixture
def call(folder, monkeypatch, capfdbinary, forgotten_plugins):
    """Call the command line; what both outputs got, decoded, and its exit code."""
    from epi_bench.cli.app import main

    def call_main(*arguments):
        forgotten_plugins()
        monkeypatch.setattr(sys, "argv", ["epi-bench", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        captured = capfdbinary.readouterr()
        output, errors = captured.out.decode(), captured.err.decode()
        assert obeyed(output) == [], output
        assert obeyed(errors) == [], errors
        return code, output, errors

    return call_main


PLUG = ("--plugin", "plugin.py")


@pytest.mark.parametrize("kind", ["strategies", "tasks", "streams"])
@pytest.mark.parametrize("format_", ["table", "markdown", "csv", "json"])
def test_lists(call, kind, format_):
    code, output, errors = call(kind, "list", *PLUG, "--format", format_)
    assert (code, errors) == (0, "")
    assert "[red]x[/red]" in output.replace("\\[", "[").replace("\\]", "]")
    if format_ in ("table", "csv"):
        assert SHOWN in output
    if format_ == "table":
        assert "[link=http://e.org]l[/link] :skull:" in output
    if format_ == "markdown":
        assert tags(output) == set()
    if format_ == "json":
        assert any(
            SHOWN in str(cell) or HOSTILE in str(cell)
            for row in json.loads(output)
            for cell in row.values()
        )


@pytest.mark.parametrize(
    "arguments",
    [
        ("strategies", "show", "hostile_strategy"),
        ("streams", "show", "hostile_stream"),
        ("tasks", "show", "hostile_task"),
    ],
)
@pytest.mark.parametrize("width", ["80", "400"])
def test_one_shown(call, arguments, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", width)
    code, output, errors = call(*arguments, *PLUG)
    assert (code, errors) == (0, "")
    assert "[red]x[/red] [/]" in output
    assert r"\x1b[31mred\x1b]0;t\x07" in output


def test_a_plugin_that_fails(call):
    code, output, errors = call("strategies", "list", "--plugin", "broken.py")
    assert (code, output, len(errors.splitlines())) == (2, "", 1)
    assert SHOWN in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--strategy", HOSTILE),
        ("run", "--tasks", HOSTILE),
        ("run", "--set", HOSTILE),
        ("run", "--set", f"ratio={HOSTILE}"),
        ("run", "--stream", HOSTILE),
        ("run", "--model", HOSTILE, "--tasks", "mini_math"),
        ("run", "--config", HOSTILE),
        ("run", "--data-dir", HOSTILE),
        ("run", "--plugin", HOSTILE),
        ("run", f"--{HOSTILE}"),
        ("run", "--seed", HOSTILE),
        ("run", "--stream", "hostile_stream", *PLUG),
        ("run", "--data-dir", "\udcff"),  # a name that is no UTF-8
        (HOSTILE,),
        ("strategies", HOSTILE),
        ("tasks", "show", HOSTILE),
        ("tasks", "show", HOSTILE + ".toml"),
        ("tasks", "validate", HOSTILE + ".toml"),
        ("tasks", "similarity", f"mini_math,{HOSTILE}"),
        ("leaderboard", HOSTILE),
        ("leaderboard", "--sort", HOSTILE),
        ("leaderboard", "validate", HOSTILE),
        ("run", "--checkpoint-every", HOSTILE),
        ("run", "--keep-model", HOSTILE),
        ("run", "--backend", HOSTILE),
        ("compare", HOSTILE, "--board", HOSTILE),
        ("plot", "balance", "--board", HOSTILE, "--out", "x.png"),
        ("inspect", HOSTILE),
        ("profile", "--strategy", HOSTILE),
    ],
)
def test_what_cannot_be_is_one_line(call, arguments):
    code, output, errors = call(*arguments)
    assert (code, output.strip()) in ((2, ""), (2, "starting"))  # a run says at once that it begins
    assert len(errors.splitlines()) == 1
    assert errors.startswith("epi-bench: ")


def test_a_strategy_that_refuses(call, toy_model):
    code, _, errors = call(
        "run", *PLUG, "--strategy", "hostile_strategy", "--tasks", "hostile_task", "--model",
        toy_model, "--steps", 1, "--max-length", 200, "--train-examples", 4, "--test-examples", 2,
    )  # fmt: skip
    assert code == 2
    assert SHOWN in errors
    assert "Traceback" not in errors


def test_task_files(call):
    names = sorted(path.name for path in Path().glob("*.toml"))
    code, output, errors = call("tasks", "validate", *names)
    assert SHOWN.replace("/", "") in output + errors
    assert code == 2  # each answer is listed, and the options are not all there
    assert "Traceback" not in errors


def test_a_run_shows_its_rows_warnings_and_labels(call, toy_model):
    code, output, errors = call(
        "run", *PLUG, "--strategy", "full_sft", "--tasks", "hostile_task", "--model", toy_model,
        "--steps", 1, "--max-length", 200, "--train-examples", 4, "--test-examples", 2,
        "--log-predictions",
    )  # fmt: skip
    assert (code, errors) == (0, "")
    assert SHOWN in output
    (record,) = Path("runs").glob("*/record.json")
    for path in (record, *record.parent.glob("*.jsonl"), *record.parent.glob("*.toml")):
        assert obeyed(path.read_text(encoding="utf-8")) == [], path


@pytest.fixture
def board(folder, make_run):
    """A track whose labels, model and tasks are hostile, and a file that is no record."""
    runs = [
        make_run(name, scores=(score, 80.0), options={"note": HOSTILE}, seed=seed)
        for name, score in (("epi", 60.0), ("ewc", 30.0))
        for seed in (0, 1)
    ]
    for run in runs:
        path = publish(run, folder / "leaderboards")
        save_record(run, folder / "runs" / run.run_id / "record.json")
    path.with_name(f"x{HOSTILE.replace('/', '')}.json").write_text("{", encoding="utf-8")
    return path.parent


@pytest.mark.parametrize("format_", ["table", "markdown", "csv", "json"])
def test_the_leaderboard(call, board, format_):
    code, output, errors = call("leaderboard", "--format", format_)
    assert code == 0
    assert len(errors.splitlines()) == 1
    assert SHOWN in errors
    if format_ in ("table", "csv"):
        assert SHOWN in output
    if format_ == "markdown":
        assert tags(output) == set()
    if format_ == "json":
        assert HOSTILE in json.loads(output)["tracks"][0]["entries"][0]["strategy"]


@pytest.mark.parametrize("format_", ["table", "markdown", "csv", "json"])
def test_what_is_wrong_with_records(call, board, format_):
    code, output, _ = call("leaderboard", "validate", "leaderboards", "--format", format_)
    assert code == 1
    assert SHOWN in output or format_ not in ("table", "csv")
    assert format_ != "markdown" or tags(output) == set()


def test_what_is_not_published(call, board):
    code, _, errors = call("leaderboard", "submit", *sorted(board.glob("*.json")), "--board", "new")
    assert code == 2
    assert SHOWN in errors
    assert not Path("new").exists()


def test_its_pages(call, board):
    code, _, _ = call("leaderboard", "--update")
    assert code == 0
    pages = [board / "README.md", board.parent / "README.md", board / "results.csv"]
    for page in pages:
        assert obeyed(page.read_text(encoding="utf-8")) == []
    assert tags(pages[0].read_text(encoding="utf-8")) == {"code_inline"}  # how it was made
    links = re.findall(r"\]\(([^)]*)\)", pages[1].read_text(encoding="utf-8"))
    assert links == [f"{board.name}/README.md"]


@pytest.mark.parametrize("format_", ["table", "markdown", "csv", "json"])
def test_comparisons(call, board, format_):
    label = f"epi (note={HOSTILE})"
    code, output, _ = call("compare", label, "--board", board, "--format", format_)
    assert code == 0
    if format_ == "markdown":
        assert tags(output) == set()


def test_figures(call, board):
    for suffix in (".png", ".svg"):
        code, output, _ = call("plot", "balance", "--board", board, "--out", f"b{suffix}")
        assert (code, output) == (0, f"figure: b{suffix}\n")
    code, _, _ = call("plot", "matrix", f"epi (note={HOSTILE})", "--board", board, "--out", "m.svg")
    assert code == 0
    assert obeyed(Path("m.svg").read_text(encoding="utf-8")) == []


def test_results_in_a_notebook_and_on_a_terminal(board):
    import epi_bench

    results = epi_bench.load_results(board)
    assert obeyed(repr(results)) == []
    assert r"\x1b[31mred\x1b]0;t\x07" in repr(results)
    page = results._repr_html_()
    assert obeyed(page) == []
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_with_colours_only_those_of_rich(call, board, monkeypatch, capfdbinary):
    monkeypatch.setenv("FORCE_COLOR", "1")
    from epi_bench.cli import app

    monkeypatch.setattr(sys, "argv", ["epi-bench", "leaderboard"])
    with pytest.raises(SystemExit):
        app.main()
        raise SystemExit
    text = capfdbinary.readouterr().out.decode()
    assert "\x1b[1m" in text
    assert SHOWN in text
    assert obeyed(re.sub(r"\x1b\[[\d;]*m", "", text)) == []


def test_what_a_judge_answers(call, toy_model):
    class Hostile(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"error": {"message": HOSTILE}}).encode()
            self.send_response(404, "no")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Hostile) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        code, _, errors = call(
            "run", "--strategy", "full_sft", *PLUG, "--tasks", "hostile_chat", "--model", toy_model,
            "--steps", 1, "--max-length", 200, "--judge-url", url, "--judge-model", HOSTILE,
        )  # fmt: skip
        server.shutdown()
    assert code == 2
    assert SHOWN in errors
    assert "Traceback" not in errors

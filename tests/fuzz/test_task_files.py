"""Task files: what ``tasks validate`` accepts can be trained, all else is refused line by line."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import strategies as st

TASK = {
    "name": "asked",
    "summary": "s",
    "ability": "knowledge",
    "licence": "l",
    "source": {"train": "rows.jsonl", "test_every": 2},
    "columns": {"q": "question"},
    "example": {"prompt": "{{ q }}?", "answer": "{{ answer }}", "options": ["a", "b"]},
    "scoring": {"mode": "choice"},
}
PLACES = [
    *((key,) for key in TASK),
    *((key, inner) for key, table in TASK.items() if isinstance(table, dict) for inner in table),
    ("example", "system"), ("example", "messages"), ("example", "reference"), ("scoring", "metric"),
    ("example", "answer_form"), ("scoring", "also"), ("scoring", "max_new_tokens"), ("unknown",),
    ("scoring", "chance"), ("source", "test"), ("source", "hub"), ("source", "quoting"),
    ("example", "unknown"), ("columns", "answer"), ("tasks",), ("defaults",),
]  # fmt: skip
WORDS = [
    "generate", "choice", "teacher_forced", "exact_match", "rouge_l", "index", "letter", "opts",
    "chat", "rows.jsonl", "nested", "../rows.jsonl", "/dev/zero", ".",
]  # fmt: skip
TEMPLATES = [
    "{{ row }}", "{{ row.n }}", "{{ q.upper() }}", "{{ q*9 }}",
    "{% for i in row %}{{i}}{% endfor %}",
    "{{ q | nofilter }}", "{{", "{% if %}", '{{ ""[0] }}', "{{ n // 0 }}", "{{ q.__class__ }}",
    '{{ q|attr("__class__") }}', "{{ options[9] }}", "{{ self }}", "{{ loop }}", "{{ cycler() }}",
    "{{ " + "(" * 300 + "q" + ")" * 300 + " }}", "{{ " + "not " * 900 + "q }}",
    "{{ " + "-" * 5000 + "1 }}", "{{ q " + "~ q " * 3000 + "}}",
    "{{ " + "[" * 200 + "]" * 200 + " }}",
    "{{ q" + "[0]" * 4000 + " }}", "{% for a in q %}" * 30 + "x" + "{% endfor %}" * 30,
    "{{ 9**9**9 }}", '{{ q|replace("","x") }}', "{{ q|truncate(-1) }}", "{{ q|int(base=99) }}",
    '{{ (q ~ "x")|float|int }}', '{{ "1e999"|float|int }}', '{{ "nan"|float|round }}',
    '{{ q|sort(attribute="x") }}', '{{ row|map(attribute="a.b")|list|first }}',
    "{{ row|sort|join }}",
    "{% for i in range(10**10) %}{% endfor %}", "{{ 'x' * 10**10 }}", "{{ lipsum(n=10**6) }}",
    "{% set x = q %}" * 500, "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{% include 'x' %}",
    "{% for a in opts %}{% for b in opts %}{{ a ~ b }}{% endfor %}{% endfor %}",
    "{{ n|string * 99 }}",
    "{{ 10**15 * 10**15 }}", "{{ '\\ud800' }}",
    "{{ q|unknown(" * 50, "{% raw %}{{ q }}", "{# {{ q }}",
    "{{ q if q }}", "{{ q is unknown }}", "{{ caller() }}", "{{ q|default(q|default(q)) }}",
    "{{ nested.a.b.c }}", "{{ nested['a']['x'] }}", "{{ '%s' % q }}", "{{ q|e }}", "{{ q[::0] }}",
    "{{ q[-10**9:10**9] }}", "{% call q() %}{% endcall %}", "{% block b %}{% endblock %}",
    "{% filter upper %}x{% endfilter %}", "{% set ns = namespace(x=1) %}", "{% autoescape true %}",
    "{{ q|truncate(10**9) }}", "{{ q|center(10**9) }}", "{{ q|indent(10**9) }}", "{{ {}|tojson }}",
]  # fmt: skip
ROWS = "\n".join(
    json.dumps(
        {
            "question": f"q{i}",
            "answer": "ab"[i % 2],
            "n": i,
            "opts": ["a", "b"],
            "nested": {"a": {"b": i}},
            "chat": [{"role": "user", "content": f"u{i}"}, {"role": "assistant", "content": "x"}],
        }
    )
    for i in range(12)
)
RUN = ("--quiet", "--out", "results", "--steps", "2")


@pytest.fixture
def rows(command):
    return command.write("rows.jsonl", ROWS)


def test_task_files(fuzz, hostile, command, rows):
    values = st.one_of(
        hostile.toml_value, st.sampled_from(WORDS), st.sampled_from(TEMPLATES), st.lists(st.text())
    )
    written = st.tuples(st.just(False), values)
    raw = st.tuples(st.just(True), st.sampled_from(hostile.raw_toml))
    change = st.tuples(st.sampled_from(PLACES), written | raw)

    @fuzz(110, st.lists(change, min_size=1, max_size=2))
    def case(drawn):
        content, unwritten = copy.deepcopy(TASK), {}
        for place, (is_raw, value) in drawn:
            if is_raw:
                unwritten[place] = value
            else:
                hostile.put(content, place, value)
        command.write("task.toml", hostile.toml(content, unwritten))
        validated = command("tasks", "validate", "task.toml")
        ended = command("run", "--tasks", "task.toml", *RUN)
        assert (validated.code == 0) == ended.started, (validated, ended)
        command("tasks", "show", "task.toml")


def test_suites(fuzz, hostile, command, rows):
    places = st.sampled_from([
        ("tasks",), ("summary",), ("defaults",), ("defaults", "data"), ("defaults", "training"),
        ("defaults", "training", "steps"), ("defaults", "evaluation"),
        ("defaults", "data", "tasks"),
        ("unknown",), ("defaults", "model"),
    ])  # fmt: skip
    named = st.sampled_from(
        [["task.toml"], ["suite.toml"], ["nowhere.toml"], ["mini_math"], ["mini"]]
    )

    @fuzz(40, places, hostile.toml_value | named)
    def case(place, value):
        content = {"tasks": ["task.toml"], "defaults": {"training": {"steps": 2}}}
        hostile.put(content, place, value)
        command.write("task.toml", hostile.toml(TASK, {}))
        command.write("suite.toml", hostile.toml(content, {}))
        command("tasks", "validate", "suite.toml")
        if "mini" not in str(value):  # whose rows take a second to make
            command("run", "--tasks", "suite.toml", "--quiet", "--out", "results")


def test_templates(fuzz, hostile, command):
    """Of the language of templates itself: made of pieces, filled with any values."""
    from epi_bench.task.files.template_values import MissingValueError
    from epi_bench.task.files.text_template import TextTemplate, TextTemplateError

    pieces = st.sampled_from([
        "{{ q }}", "{{ row }}", "{% for x in q %}", "{% for x in row %}", "{% endfor %}", "{{ x }}",
        "{% if q %}", "{% else %}", "{% endif %}", "{% set x = q %}", "{{ q|", "upper", "join",
        "}}",
        "{{", "(", ")", "[", "]", "q", "~", "*", "10**10", "+", "-", "%}", "{%", "'", "|length",
        "|list",
        "|int", "|sort", "|map(attribute='a')", ".split()", "[0]", "[1:2]", "is none", "in", "==",
        "<",
        "loop.index", ".items()", ".get('a')", "{{ q ~ q ~ q }}", "|replace('', q)",
        "|truncate(99)",
    ])  # fmt: skip
    source = st.one_of(
        st.lists(pieces | hostile.text, max_size=8).map(" ".join), st.sampled_from(TEMPLATES)
    )
    values = st.fixed_dictionaries({"q": hostile.json_value, "row": hostile.json_value})

    @fuzz(300, source, values)
    def case(text, filled):
        try:
            made = TextTemplate(text).render(filled)
        except (TextTemplateError, MissingValueError):
            return
        assert len(made) <= 1_000_000
        made.encode()

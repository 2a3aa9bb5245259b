"""Grading a row of answers, and whole runs with a judge."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from statistics import fmean, stdev

import pytest

from epi_bench.errors import UserError
from epi_bench.evaluation.judge.endpoint import ChatEndpoint, Patience
from epi_bench.evaluation.judge.judge import JudgedScores, open_judge
from epi_bench.evaluation.judge.verdict_cache import VerdictCache
from epi_bench.files import cache_folder
from epi_bench.results.record.record_file import comparable, load_record
from epi_bench.results.record.workspace import Workspace
from epi_bench.runs.local_processes import LocalProcesses
from epi_bench.runs.many_runs import run_in_process, run_on_backend
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.request import RunOutcome, RunRequest
from epi_bench.task.example import Example
from epi_bench.task.task import TASKS

TOY_PROMPTS = """
[prompts.toy]
system = "You grade."
user = "Q: {question} R: {reference} A: {answer}"
"""


@pytest.fixture
def toy_settings(settings, tmp_path):
    """The server's, with a prompt for the toy tasks' ability."""
    path = tmp_path / "toy_prompts.toml"
    path.write_text(TOY_PROMPTS, encoding="utf-8")
    return replace(settings, prompts=path)


EXAMPLES = tuple(
    Example(({"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "r"}), "r")
    for i in range(20)
)
ANSWERS = {"toy_second": [f"a{i}" for i in range(20)]}


@pytest.fixture
def open_toy(toy_settings, toy_tasks, fake_time):
    """Opens a judge of twenty answers that never really waits; keeps its warnings."""
    opened = []

    def make(names=("toy_second",), examples=EXAMPLES, **patience):
        limits = Patience(**{"timeout": 5.0, **patience})
        endpoint = ChatEndpoint(toy_settings, limits, fake_time.clock, fake_time.sleep)
        task = TASKS.get("toy_second")()
        judge = open_judge(toy_settings, dict.fromkeys(names, (task, examples)), endpoint)
        opened.append(judge)
        return judge

    yield make
    for judge in opened:
        judge.close()


def grade(judge, answers=None):
    warnings: list[str] = []
    return judge.grade(answers or ANSWERS, warnings.append), warnings


def score_of(question: str) -> int:
    """The toy judge: 0 to 10 by the question's hash."""
    return hashlib.sha256(question.encode()).digest()[0] % 11


def test_mean_and_standard_error_leave_missing_grades_out():
    scores = JudgedScores((2.0, None, 4.0, 9.0))
    assert (scores.mean, scores.missing, scores.judged) == (5.0, 1, [2.0, 4.0, 9.0])
    assert scores.standard_error == pytest.approx((13 / 3) ** 0.5)  # s^2 = (9 + 1 + 16) / 2 = 13
    assert JudgedScores((None, None)).mean is None
    assert JudgedScores((3.0, None)).standard_error is None


def test_grades_come_in_the_order_of_the_examples(open_toy, server, reply):
    judge = open_toy()
    server.reply_to = lambda body: reply(f"Score: {score_of(body['messages'][-1]['content'])}")
    graded, warnings = grade(judge)
    expected = [float(score_of(f"Q: q{i} R: r A: a{i}")) for i in range(20)]
    assert list(graded["toy_second"].items) == expected
    assert warnings == []
    body = server.bodies[-1]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("toy-judge", 0.0, 512)


def test_a_second_time_nothing_is_asked(open_toy, server):
    first, _ = grade(open_toy())
    again = open_toy()
    before = len(server.bodies)
    second, _ = grade(again)
    assert second == first
    assert len(server.bodies) == before
    changed = {"toy_second": ["other", *ANSWERS["toy_second"][1:]]}
    grade(again, changed)
    assert len(server.bodies) == before + 1


def test_a_damaged_cache_file_is_asked_for_again_and_mended(open_toy, server):
    first, _ = grade(open_toy())
    files = sorted(cache_folder("judge").glob("*/*.json"))
    assert len(files) == 20
    for path, text in zip(files, ["", "[]", '{"verdict": 3}', "{"], strict=False):
        path.write_text(text, encoding="utf-8")
    before = len(server.bodies)
    judge = open_toy()
    assert grade(judge)[0] == first
    assert len(server.bodies) == before + 1 + 4
    assert all(json.loads(p.read_text())["verdict"] == "Score: [[7]]" for p in files)


def test_an_unreadable_verdict_is_asked_about_once_more(open_toy, server, reply):
    judge = open_toy(examples=EXAMPLES[:1])
    server.script.extend([reply("hmm"), reply("Score: [[4]]")])
    graded, warnings = grade(judge, {"toy_second": ["a"]})
    assert graded["toy_second"].items == (4.0,)
    assert warnings == []
    assert [m["role"] for m in server.bodies[-1]["messages"]] == [
        "system", "user", "assistant", "user",
    ]  # fmt: skip
    assert server.bodies[-1]["messages"][2]["content"] == "hmm"


def test_a_verdict_that_stays_unreadable_is_missing_and_not_zero(open_toy, server, reply):
    judge = open_toy(examples=EXAMPLES[:2])
    server.reply_to = lambda body: reply("hmm" if "a0" in str(body) else "8/10")
    graded, warnings = grade(judge, {"toy_second": ["a0", "a1"]})
    assert graded["toy_second"].items == (None, 8.0)
    assert graded["toy_second"].mean == 8.0
    assert warnings == [
        "1 of 2 answers of task 'toy_second' were not judged and count as missing: "
        "1 because the verdict holds no score from 0 to 10"
    ]
    assert sum("a0" in str(body) for body in server.bodies) == 2
    assert sum(1 for _ in cache_folder("judge").glob("*/*.json")) == 1


def test_a_server_that_dies_costs_no_more_than_a_few_questions(open_toy, server, reply, fake_time):
    judge = open_toy(names=("toy_second", "other"), attempts=2)
    before = len(server.bodies)
    server.reply_to = lambda _: reply(status=503, body="")
    both = {**ANSWERS, "other": ANSWERS["toy_second"]}
    graded, warnings = grade(judge, both)
    assert {name: scores.missing for name, scores in graded.items()} == {
        "toy_second": 20,
        "other": 20,
    }
    # Three items in a row give up; what four threads had begun by then still ends.
    assert len(server.bodies) - before <= 2 * (3 + 3)
    assert len(warnings) == 2
    assert all("20 of 20" in warning and "HTTP 503" in warning for warning in warnings)
    server.reply_to = lambda _: reply()
    graded, warnings = grade(judge, both)  # the next row tries again
    assert graded["toy_second"].missing == 0


def test_an_interruption_does_not_wait_for_the_judge(open_toy, server, reply):
    judge = open_toy()
    server.reply_to = lambda _: reply(hang=True)
    main = threading.main_thread().ident
    threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        grade(judge)
    assert time.monotonic() - started < 4  # the time limit of a request is 5 s
    server.ended.set()


def test_a_mistake_in_the_program_costs_the_grades_and_is_named(open_toy, monkeypatch):
    judge = open_toy()
    monkeypatch.setattr(judge.cache, "get", lambda _key: 1 / 0)
    graded, warnings = grade(judge)
    assert graded["toy_second"].missing == 20
    assert "20 because grading failed (ZeroDivisionError: division by zero)" in warnings[0]


def test_single_failures_do_not_stop_the_judge(open_toy, server, reply):
    judge = open_toy(attempts=1)
    server.reply_to = lambda body: reply(
        status=500 if body["messages"][-1]["content"].endswith(("A: a3", "A: a11")) else 200
    )
    graded, warnings = grade(judge)
    assert [i for i, item in enumerate(graded["toy_second"].items) if item is None] == [3, 11]
    assert len(warnings) == 1


def test_a_cache_that_cannot_be_written_is_a_warning(open_toy, server, tmp_path):
    judge = open_toy()
    (tmp_path / "file").write_text("")
    judge.cache = VerdictCache(tmp_path / "file" / "folder")
    graded, warnings = grade(judge)
    assert graded["toy_second"].missing == 0
    assert len(warnings) == 1
    assert "verdicts are not kept" in warnings[0]


@pytest.mark.parametrize("value", ["off", "None", "0", ""])
def test_without_a_cache_every_question_is_asked_and_nothing_is_written(
    value, open_toy, server, monkeypatch, tmp_path
):
    monkeypatch.setenv("EPI_BENCH_CACHE", value)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    first, warnings = grade(open_toy(examples=EXAMPLES[:2]), {"toy_second": ["a0", "a1"]})
    asked = len(server.bodies)
    again, _ = grade(open_toy(examples=EXAMPLES[:2]), {"toy_second": ["a0", "a1"]})
    assert again == first
    assert len(server.bodies) == 2 * asked
    assert warnings == []
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_without_open_ended_tasks_is_refused(settings, toy_tasks, server):
    task = TASKS.get("toy_second")()  # its ability has no prompt in the shipped file
    with pytest.raises(UserError, match=r"nothing to do: none of toy_second .*chat, code"):
        open_judge(settings, {"toy_second": (task, EXAMPLES)})
    assert server.bodies == []


class Warnings(RunObserver):
    """Keeps the warnings of a run."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def warning(self, message: str) -> None:
        self.messages.append(message)


def test_a_run_with_a_judge(run_toy, toy_settings, server, reply, tmp_path, key, capfd):
    server.reply_to = lambda body: reply(f"Score: {score_of(body['messages'][-1]['content'])}")
    plain = run_toy(out=tmp_path / "plain")
    outcome = run_toy(request={"judge": toy_settings})
    record = load_record(outcome.path)

    assert [row.row for row in record.judge.rows] == ["base", "toy_second"]
    assert all(list(row.tasks) == ["toy_second"] for row in record.judge.rows)
    asked = set(server.questions()[1:])  # the first request was the check
    assert len(server.bodies) == 1 + len(asked)
    n = record.score_matrix.n[1]
    assert all(row.tasks["toy_second"].n == n for row in record.judge.rows)
    if len(asked) == 2 * n:  # else an answer was the same before and after
        both = [row.tasks["toy_second"].mean for row in record.judge.rows]
        assert fmean(both) == pytest.approx(fmean(map(score_of, asked)))
    last = record.judge.rows[-1].tasks["toy_second"]
    assert record.secondary_scores["toy_second"]["judge"] == last.mean
    assert "judge" not in record.secondary_scores["toy_first"]
    assert last.standard_error > 0

    assert (record.run_id, record.track) == (plain.record.run_id, plain.record.track)
    assert comparable(record) == comparable(plain.record)
    for path in filter(Path.is_file, tmp_path.rglob("*")):
        assert key.encode() not in path.read_bytes(), path
        if "cache" not in path.parts:  # the address may be private: it is no result
            assert server.url.encode() not in path.read_bytes(), path
    assert key not in "".join(capfd.readouterr())

    before = len(server.bodies)
    assert run_toy(request={"judge": toy_settings}).skipped
    assert len(server.bodies) == before
    forced = run_toy(request={"judge": toy_settings, "force": True})
    assert len(server.bodies) == before + 1  # the check only
    assert forced.record.judge == record.judge


def test_the_grades_are_those_of_the_answers(run_toy, toy_settings, server, reply, monkeypatch):
    from epi_bench.runs.stream_training import StreamTraining

    seen = {}
    original = StreamTraining._judge_last_row

    def spy(self, key):
        original(self, key)
        answers = self.measurements.answers["toy_second"]
        seen[self.measurements.rows[-1].name] = [p.text for p in answers.predictions]

    monkeypatch.setattr(StreamTraining, "_judge_last_row", spy)
    server.reply_to = lambda body: reply(f"Score: {score_of(body['messages'][-1]['content'])}")
    record = run_toy(request={"judge": toy_settings}).record
    test = TASKS.get("toy_second")().examples("test")
    for row in record.judge.rows:
        grades = [
            score_of(f"Q: {e.prompt[0]['content']} R: {e.reference} A: {text}".strip())
            for e, text in zip(test, seen[row.row], strict=True)
        ]
        assert row.tasks["toy_second"].mean == pytest.approx(fmean(grades))
        error = stdev(grades) / len(grades) ** 0.5
        assert row.tasks["toy_second"].standard_error == pytest.approx(error)


def test_a_finished_run_is_made_anew_for_a_judge_it_has_not_met(run_toy, toy_settings, server):
    assert run_toy().record.judge is None
    judged = run_toy(request={"judge": toy_settings})
    assert not judged.skipped
    assert judged.record.judge.model == "toy-judge"
    assert run_toy().skipped  # asked for without a judge, the record keeps its grades
    assert load_record(judged.path).judge == judged.record.judge
    other = run_toy(request={"judge": replace(toy_settings, model="other")})
    assert not other.skipped
    assert other.record.judge.model == "other"


def test_a_run_goes_on_when_the_judge_leaves(run_toy, toy_settings, server, reply):
    answered = []

    def reply_to(body):
        answered.append(body)
        return reply() if len(answered) <= 4 else reply(status=404, body="gone")

    server.reply_to = reply_to
    observer = Warnings()
    record = run_toy(request={"judge": toy_settings}, observer=observer).record
    assert record.status == "finished"
    base, last = (row.tasks["toy_second"] for row in record.judge.rows)
    n = record.score_matrix.n[1]
    assert (base.n, base.missing, base.mean) == (3, n - 3, 7.0)
    assert last.n + last.missing == n
    assert last.missing > 0
    assert [("HTTP 404 (gone)" in message) for message in observer.messages] == [True, True]


def test_an_unreachable_judge_stops_the_run_before_it_starts(
    run_toy, toy_settings, closed_port, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "epi_bench.evaluation.judge.endpoint.Patience", partial(Patience, first_delay=0.0)
    )
    settings = replace(toy_settings, url=f"http://127.0.0.1:{closed_port}/v1")
    with pytest.raises(UserError, match=r"the judge 'toy-judge' at http.* cannot be reached"):
        run_toy(out=tmp_path / "out", request={"judge": settings})
    assert not (tmp_path / "out").exists()


def test_a_refused_key_is_one_line_and_exit_code_2(
    server, reply, toy_model, toy_tasks, toy_settings, tmp_path, monkeypatch, capsys, key
):
    from epi_bench.cli.app import main

    server.reply_to = lambda _: reply(status=401, body=f'{{"error": "wrong key {key}"}}')
    arguments = ["run", "--strategy", "full_sft", "--model", toy_model, "--plugin", toy_tasks,
                 "--tasks", "toy_first,toy_second", "--steps", 2, "--max-length", 64, "--out",
                 tmp_path / "out", "--judge-url", server.url, "--judge-model", "toy-judge",
                 "--judge-prompts", toy_settings.prompts]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["epi-bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert ended.value.code == 2
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1
    assert "refuses the key (HTTP 401): check EPI_BENCH_JUDGE_KEY" in lines[0]
    assert key not in printed.out + printed.err
    assert not (tmp_path / "out").exists()


def test_processes_get_the_judge_but_no_key_and_references_no_judge(
    toy_spec, toy_tasks, toy_settings, tmp_path, monkeypatch, key
):
    orders = []

    def record_orders(backend, given):
        orders.extend(given)
        for position, order in enumerate(given):
            yield position, RunOutcome(order.spec, None, error="not started")

    monkeypatch.setattr(LocalProcesses, "run", record_orders)
    settings = replace(toy_settings, requests_per_minute=100)
    request = RunRequest(Workspace(tmp_path), plugins=(toy_tasks,), references=True, judge=settings)
    specs = [toy_spec(tasks=["toy_second", "toy_first"], seed=seed) for seed in (0, 1)]
    outcomes = list(run_on_backend(specs, request, LocalProcesses(2)))
    assert [outcome.error for outcome in outcomes] == ["not started"] * 2
    references, runs = orders[:2], orders[2:]
    assert [order.request.judge for order in references] == [None, None]
    assert [order.request.judge for order in runs] == [settings.shared_by(2)] * 2
    assert not any(key in order.to_json().decode() for order in orders)


def test_references_trained_in_this_process_are_not_judged(
    toy_spec, toy_settings, server, tmp_path
):
    request = RunRequest(Workspace(tmp_path / "out"), references=True, judge=toy_settings)
    spec = toy_spec(tasks=["toy_second", "toy_first"], steps=2)
    [outcome] = run_in_process([spec], request, RunObserver())
    records = [load_record(path) for path in (tmp_path / "out" / "runs").glob("*/record.json")]
    assert len(records) == 3
    assert [r.run_id for r in records if r.judge is not None] == [outcome.record.run_id]


def test_the_summary_shows_the_grades(run_toy, toy_settings, server):
    from rich.console import Console

    from epi_bench.cli.summary import print_record

    outcome = run_toy(request={"judge": toy_settings})
    console = Console(width=160, record=True, file=StringIO())
    print_record(outcome, console)
    text = console.export_text()
    assert "Judge toy-judge (0 to 10)" in text
    assert "7.00 ± 0.00 (n = 14)" in text


def test_a_verdict_of_half_a_character_is_a_grade_and_is_kept(open_toy, server, reply):
    judge = open_toy()
    body = '{"choices": [{"message": {"content": "\\ud800 Score: [[7]]"}}]}'
    server.reply_to = lambda _: reply(body=body)
    graded, warnings = grade(judge)
    assert graded["toy_second"].items == (7.0,) * 20
    assert warnings == []
    asked = len(server.bodies)
    assert grade(judge)[0]["toy_second"].items == (7.0,) * 20
    assert len(server.bodies) == asked


def test_whatever_fails_in_one_grade_is_a_missing_grade(open_toy, server, monkeypatch):
    judge = open_toy()
    put = judge.cache.put
    broken = []

    def fails_twice(key, model, verdict):
        if len(broken) < 2:
            broken.append(key)
            raise UnicodeEncodeError("utf-8", "x", 0, 1, "surrogates not allowed")
        put(key, model, verdict)

    monkeypatch.setattr(judge.cache, "put", fails_twice)
    graded, warnings = grade(judge)
    assert graded["toy_second"].missing == 2
    assert graded["toy_second"].mean == 7.0
    assert len(warnings) == 1
    assert "2 of 20 answers of task 'toy_second' were not judged" in warnings[0]
    assert "grading failed (UnicodeEncodeError" in warnings[0]


def test_an_answer_of_the_model_that_is_no_unicode_is_a_missing_grade(open_toy, server):
    answers = {"toy_second": ["\ud800", *ANSWERS["toy_second"][1:]]}
    graded, warnings = grade(open_toy(), answers)
    assert graded["toy_second"].items == (None, *(7.0,) * 19)
    assert len(warnings) == 1


def test_a_verdict_with_the_key_leaves_it_in_no_file(open_toy, server, reply, key, tmp_path):
    server.reply_to = lambda _: reply(f"{key}: no score here")
    judge = open_toy()
    judge.endpoint.patience = Patience(attempts=1)
    server.reply_to = lambda _: reply(f"{key}. Score: [[7]]")
    grade(judge)
    files = [path for path in tmp_path.rglob("*.json") if path.is_file()]
    assert len(files) == 20
    assert not any(key in path.read_text() for path in files)
    assert all("***. Score: [[7]]" in path.read_text() for path in files)

"""The endpoint against a server that answers well, badly, slowly and not at all."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import quote

import pytest

from epi_bench.errors import UserError
from epi_bench.evaluation.judge import JudgeSettings
from epi_bench.evaluation.judge.endpoint import (
    MAX_RESPONSE_BYTES,
    ChatEndpoint,
    JudgeUnavailableError,
    Patience,
    RateLimit,
)
from epi_bench.evaluation.judge.settings import judge_settings

BODY = {"model": "toy-judge", "messages": [{"role": "user", "content": "grade"}]}


@pytest.fixture
def endpoint(settings, fake_time):
    made = ChatEndpoint(settings, Patience(timeout=5), fake_time.clock, fake_time.sleep)
    yield made
    made.close()


def refused(endpoint, **how) -> JudgeUnavailableError:
    with pytest.raises(JudgeUnavailableError) as error:
        endpoint.complete(BODY, seed="s", **how)
    return error.value


def test_a_good_answer_is_asked_for_once(endpoint, server, reply, fake_time, key):
    server.script.append(reply("fine"))
    assert endpoint.complete(BODY, seed="s") == "fine"
    assert server.bodies == [{**BODY, "path": "/v1/chat/completions"}]
    assert server.keys == [f"Bearer {key}"]
    assert fake_time.slept == []


def test_without_a_key_no_credentials_are_sent(settings, server, monkeypatch):
    monkeypatch.delenv("EPI_BENCH_JUDGE_KEY")
    ChatEndpoint(settings).complete(BODY, seed="s")
    assert server.keys == [None]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_error_is_tried_again(endpoint, server, reply, status):
    server.script.extend([reply(status=status, body="busy"), reply("fine")])
    assert endpoint.complete(BODY, seed="s") == "fine"
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    "body",
    ["", "not json", "[]", "{}", '{"choices": []}', '{"choices": [{"message": {"content": 7}}]}',
     '{"choices": [null]}', "\x00\xff", "[" * 5000],
)  # fmt: skip
def test_garbage_is_tried_again_and_then_told(endpoint, server, reply, body):
    server.reply_to = lambda _: reply(body=body)
    assert "does not answer as a chat-completions endpoint" in str(refused(endpoint, attempts=2))
    assert len(server.bodies) == 2


def test_an_answer_that_is_null_is_empty(endpoint, server, reply):
    server.script.append(reply(body='{"choices": [{"message": {"content": null}}]}'))
    assert endpoint.complete(BODY, seed="s") == ""


def test_delays_double_within_their_random_factor_and_are_repeatable(
    endpoint, server, reply, fake_time
):
    server.reply_to = lambda _: reply(status=500, body='{"error": {"message": "out of luck"}}')
    error = refused(endpoint)
    assert str(error) == "answers HTTP 500 (out of luck)"
    assert not error.lasting
    assert len(server.bodies) == 5
    delays = list(fake_time.slept)
    assert len(delays) == 4
    for number, delay in enumerate(delays):
        assert 2**number * 0.5 <= delay <= 2**number
    refused(endpoint)
    assert fake_time.slept[4:] == delays


def test_retry_after_in_seconds_is_respected(endpoint, server, reply, fake_time):
    server.script.append(reply(status=429, body="", headers={"Retry-After": "17"}))
    endpoint.complete(BODY, seed="s")
    assert fake_time.slept == [17.0]


def test_retry_after_as_a_date_is_respected(endpoint, server, reply, fake_time):
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    server.script.append(reply(status=429, body="", headers={"Retry-After": then}))
    endpoint.complete(BODY, seed="s")
    assert 25 <= fake_time.slept[0] <= 30


@pytest.mark.parametrize("value", ["soon", "nan", "-5", "", "Mon, 99 Foo 2020"])
def test_a_senseless_retry_after_falls_back_to_the_usual_delay(
    endpoint, server, reply, fake_time, value
):
    server.script.append(reply(status=429, body="", headers={"Retry-After": value}))
    endpoint.complete(BODY, seed="s")
    assert 0.5 <= fake_time.slept[0] <= 1


def test_a_server_that_asks_for_an_hour_is_not_waited_for(endpoint, server, reply, fake_time):
    server.script.append(reply(status=429, body="", headers={"Retry-After": "3600"}))
    assert "asks to wait for 3600 s" in str(refused(endpoint))
    assert fake_time.slept == []
    assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [301, 400, 404, 422])
def test_a_lasting_refusal_is_not_tried_again(endpoint, server, reply, status):
    server.reply_to = lambda _: reply(
        status=status, body='{"error": "no such model"}', headers={"Location": "/elsewhere"}
    )
    error = refused(endpoint)
    assert error.lasting
    assert str(error) == f"answers HTTP {status} (no such model)"
    assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 500])
def test_no_error_repeats_the_key(endpoint, server, reply, key, status):
    server.reply_to = lambda _: reply(status=status, body=f'{{"error": "bad key {key}"}}')
    error = refused(endpoint, attempts=1)
    assert key not in str(error)
    assert ("EPI_BENCH_JUDGE_KEY" in str(error)) == (status in (401, 403))


def test_a_server_that_hangs_is_left_after_the_time_limit(settings, server, reply, fake_time):
    server.script.append(reply(hang=True))
    endpoint = ChatEndpoint(settings, Patience(timeout=0.3), sleep=fake_time.sleep)
    assert endpoint.complete(BODY, seed="s") == "Score: [[7]]"
    assert len(server.bodies) == 2


def test_a_server_that_drips_is_left_after_the_time_limit(settings, server, reply, fake_time):
    server.reply_to = lambda _: reply(drip=True)
    endpoint = ChatEndpoint(settings, Patience(timeout=0.3), sleep=fake_time.sleep)
    assert "did not finish in 0.3 s" in str(refused(endpoint, attempts=1))


def test_headers_that_drip_hold_no_request_past_its_limit(settings, server, reply, fake_time):
    server.reply_to = lambda _: reply(drip_headers=True)
    endpoint = ChatEndpoint(settings, Patience(timeout=0.3), sleep=fake_time.sleep)
    began = time.monotonic()
    assert "did not finish in 0.3 s" in str(refused(endpoint, attempts=1))
    assert time.monotonic() - began < 20  # the headers take ten minutes
    server.reply_to = lambda _: reply("fine")
    assert endpoint.complete(BODY, seed="s") == "fine"


def test_an_answer_with_half_a_character_is_unicode(endpoint, server, reply):
    body = '{"choices": [{"message": {"content": "\\ud800 \\ud83d\\ude00 Score: [[7]]"}}]}'
    server.script.append(reply(body=body))
    assert endpoint.complete(BODY, seed="s") == "\ufffd \U0001f600 Score: [[7]]"


@pytest.mark.parametrize(
    "form",
    [
        lambda key: key,
        str.upper,
        lambda key: key[:12] + "..." + key[-4:],
        lambda key: quote(key.replace("-", "/"), safe="").replace("%2F", "-"),
        lambda key: base64.b64encode(key.encode()).decode(),
        lambda key: f"{key}{key}",
    ],
    ids=["whole", "capitals", "part", "quoted", "base64", "twice"],
)
def test_an_answer_never_repeats_the_key(endpoint, server, reply, key, form):
    server.script.append(reply(f"the key is {form(key)}. Score: [[7]]"))
    answer = endpoint.complete(BODY, seed="s")
    assert answer.startswith("the key is ***")
    assert answer.endswith(". Score: [[7]]")
    assert not any(key[i : i + 8].lower() in answer.lower() for i in range(len(key) - 7))


def test_what_no_library_names_is_tried_again(settings, server, fake_time, monkeypatch, key):
    endpoint = ChatEndpoint(settings, None, fake_time.clock, fake_time.sleep)

    def broken(*_arguments, **_keywords):
        raise KeyError(f"header {key}")

    monkeypatch.setattr(endpoint._client, "stream", broken)
    error = refused(endpoint, attempts=2)
    assert str(error) == "cannot be asked: KeyError: 'header ***'"
    assert len(fake_time.slept) == 1


def test_a_flood_is_cut_off(endpoint, server, reply):
    server.reply_to = lambda _: reply("x" * (MAX_RESPONSE_BYTES + 1))
    assert "sent more than" in str(refused(endpoint, attempts=1))


def test_nobody_there(closed_port, fake_time):
    settings = JudgeSettings(f"http://127.0.0.1:{closed_port}/v1", "toy-judge")
    endpoint = ChatEndpoint(settings, None, fake_time.clock, fake_time.sleep)
    error = refused(endpoint)
    assert "cannot be reached" in str(error)
    assert not error.lasting


def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(settings, monkeypatch):
    monkeypatch.setenv("EPI_BENCH_JUDGE_KEY", "sk-\nsecret")
    with pytest.raises(UserError) as error:
        ChatEndpoint(settings)
    assert "secret" not in str(error.value)


def test_the_rate_is_kept(fake_time):
    limit = RateLimit(120, fake_time.clock, fake_time.sleep)
    starts = []
    for _ in range(4):
        limit.wait()
        starts.append(fake_time.now)
    assert starts == [0.0, 0.5, 1.0, 1.5]
    fake_time.now = 10.0  # a pause is no credit for a burst
    for _ in range(2):
        limit.wait()
        starts.append(fake_time.now)
    assert starts[4:] == [10.0, 10.5]


def test_a_rate_of_zero_never_waits(fake_time):
    limit = RateLimit(0, fake_time.clock, fake_time.sleep)
    for _ in range(100):
        limit.wait()
    assert fake_time.slept == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8000", "with http or https"),
        ("ftp://host/v1", "with http or https"),
        ("http://", "with http or https"),
        ("http://ho st/v1", "with http or https"),
        ("http://host:99999/v1", "is not an address"),
        ("http://me:secret@host/v1", "no name, password or query"),
        ("http://host/v1?key=secret", "no name, password or query"),
    ],
)
def test_a_bad_address_is_refused_without_being_repeated(url, message):
    with pytest.raises(UserError, match=message) as error:
        JudgeSettings(url, "m")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://h:1/v1", "http://h:1/v1/chat/completions"),
        ("http://h:1/v1/", "http://h:1/v1/chat/completions"),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
    ],
)
def test_the_address_of_requests(given, address):
    assert JudgeSettings(given, "m").completions_url == address


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("http://h/v1", None, None, None), ": judge.model missing"),
        ((None, "m", None, None), ": judge.url missing"),
        ((None, None, None, 5), ": judge.url and judge.model missing"),
        (("http://h/v1", " ", None, None), "judge.model is empty"),
        (("http://h/v1", "m", None, -1), "judge.requests_per_minute must be"),
    ],
)
def test_half_a_judge_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        judge_settings(*given)


def test_no_flag_is_no_judge():
    assert judge_settings(None, None, None, None) is None


def test_runs_at_a_time_share_the_rate():
    rate = JudgeSettings("http://h/v1", "m", None, 300).shared_by
    assert [rate(runs).requests_per_minute for runs in (1, 2, 1000)] == [300, 150, 1]
    assert JudgeSettings("http://h/v1", "m", None, 0).shared_by(4).requests_per_minute == 0


def test_settings_load_no_http_client():
    code = "import sys, epi_bench.runs.launch; print({'httpx', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

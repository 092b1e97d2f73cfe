import sys
import threading

import pytest

from dualselect.errors import ConfigError
from dualselect.models import EndpointTarget, GenerationSettings
from dualselect.models.cache import AnswerCache
from dualselect.models.endpoint import EndpointSettings

pytest.importorskip("openai")

PROMPTS = [[{"role": "user", "content": f"prompt {number}"}] for number in range(6)]
SETTINGS = GenerationSettings(max_new_tokens=9, batch_size=2)


@pytest.fixture
def server(stub):
    """Return the stub; it answers in upper case, after the failures that a test has planned."""
    stub.failures, stub.refused = [], set()

    def respond(number, body):
        text = body["messages"][-1]["content"]
        status = stub.failures.pop(0) if stub.failures else 400 if text in stub.refused else 200
        if status == 200:
            return stub.completion(f" {text.upper()}\n")
        return stub.failure(status, f"this is\na {status}", {"retry-after-ms": "5"})

    stub.respond = respond
    return stub


def test_answers_come_in_the_order_of_the_prompts(server):
    target = EndpointTarget("tiny", server.url)
    assert target.generate(PROMPTS, SETTINGS) == [f"PROMPT {number}" for number in range(6)]


def test_settings_and_messages_are_sent(server):
    target = EndpointTarget("tiny", server.url)
    target.generate(PROMPTS[:1], SETTINGS)
    target.generate(PROMPTS[:1], GenerationSettings(temperature=0.5, top_p=0.9, seed=3, system="be kind"))
    first, second = server.requests
    assert first == {
        "model": "tiny",
        "messages": PROMPTS[0],
        "temperature": 0.0,
        "max_tokens": 9,
    }
    assert {name: second[name] for name in ("temperature", "top_p", "seed")} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
    }
    assert second["messages"] == [{"role": "system", "content": "be kind"}, *PROMPTS[0]]


@pytest.mark.parametrize("failures", [[429], [500, 503], [429, 500, 429]])
def test_busy_and_broken_servers_are_asked_again(server, failures):
    server.failures = list(failures)
    target = EndpointTarget("tiny", server.url, settings=EndpointSettings(concurrency=1))
    assert target.generate(PROMPTS[:2], SETTINGS) == ["PROMPT 0", "PROMPT 1"]
    assert len(server.requests) == 2 + len(failures)


def test_a_server_that_stays_broken_is_named(server):
    server.failures = [500] * 9
    target = EndpointTarget("tiny", server.url, settings=EndpointSettings(attempts=3))
    with pytest.raises(ConfigError, match=f"api:tiny@{server.url}: the server answers 500 .*this is a 500"):
        target.generate(PROMPTS[:1], SETTINGS)
    assert len(server.requests) == 3


def test_what_was_answered_before_a_failure_is_not_asked_again(server, tmp_path):
    server.refused = {"prompt 5"}
    target = EndpointTarget("tiny", server.url, cache=AnswerCache(tmp_path), settings=EndpointSettings(concurrency=1))
    with pytest.raises(ConfigError, match="answers 400"):
        target.generate(PROMPTS, SETTINGS)
    server.refused, before = set(), len(server.requests)
    assert before == 6
    assert target.generate(PROMPTS, SETTINGS) == [f"PROMPT {number}" for number in range(6)]
    assert [request["messages"] for request in server.requests[before:]] == PROMPTS[5:]


def test_a_refusal_apart_from_the_content_is_the_answer(server):
    status, headers, body = server.completion(None)
    body["choices"][0]["message"]["refusal"] = "I can't help with that."
    server.respond = lambda number, request: (status, headers, body)
    assert EndpointTarget("tiny", server.url).generate(PROMPTS[:1], SETTINGS) == ["I can't help with that."]


def test_a_model_that_takes_no_temperature_is_not_asked_at_its_own(server):
    message = "Unsupported value: 'temperature' does not support 0 with this model."
    server.respond = lambda number, body: (
        server.failure(400, message) if "temperature" in body else server.completion("a")
    )
    with pytest.raises(ConfigError, match="'temperature' does not support 0"):
        EndpointTarget("tiny", server.url).generate(PROMPTS[:1], SETTINGS)


def test_what_was_under_way_when_another_request_failed_is_kept(server, tmp_path):
    under_way, failing, respond = threading.Event(), threading.Event(), server.respond

    def in_turn(number, body):
        if body["messages"] == PROMPTS[0]:
            assert under_way.wait(10)
            failing.set()
            return server.failure(400)
        under_way.set()
        assert failing.wait(10)
        return respond(number, body)

    server.respond = in_turn
    target = EndpointTarget("tiny", server.url, cache=AnswerCache(tmp_path), settings=EndpointSettings(concurrency=2))
    with pytest.raises(ConfigError, match="answers 400"):
        target.generate(PROMPTS[:2], SETTINGS)
    server.respond = respond
    assert target.generate(PROMPTS[:2], SETTINGS) == ["PROMPT 0", "PROMPT 1"]
    assert [request["messages"] for request in server.requests[2:]] == PROMPTS[:1]


def test_no_content_is_an_empty_answer(server):
    server.respond = lambda number, request: server.completion(None)
    assert EndpointTarget("tiny", server.url).generate(PROMPTS[:1], SETTINGS) == [""]


def test_a_server_that_is_not_there_is_named():
    target = EndpointTarget("tiny", "http://127.0.0.1:1/v1", settings=EndpointSettings(attempts=1))
    with pytest.raises(ConfigError, match=r"api:tiny@http://127\.0\.0\.1:1/v1: can't be reached after 1 tr"):
        target.generate(PROMPTS[:1], SETTINGS)


def test_model_and_address_tell_targets_apart(server):
    targets = [EndpointTarget("a", server.url), EndpointTarget("b", server.url), EndpointTarget("a", "http://other/v1")]
    assert len({target.identity["hash"] for target in targets}) == 3


def test_a_provider_needs_a_key(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="api:m: needs a key; set OPENAI_API_KEY"):
        EndpointTarget("m")


def test_without_the_package_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match="needs the package openai"):
        EndpointTarget("m", "http://127.0.0.1:1/v1")

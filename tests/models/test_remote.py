import sys
import threading
from dataclasses import replace

import pytest

from dualselect.errors import ConfigError
from dualselect.models import EndpointTarget, GenerationSettings
from dualselect.models.cache import AnswerCache
from dualselect.models.endpoint import EndpointSettings
from dualselect.models.thoughts import Answer

pytest.importorskip("openai")

PROMPTS = [[{"role": "user", "content": f"prompt {number}"}] for number in range(6)]
SETTINGS = GenerationSettings(max_new_tokens=9, batch_size=2)


def texts(answers):
    return [answer.text for answer in answers]


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
    assert texts(target.generate(PROMPTS, SETTINGS)) == [f"PROMPT {number}" for number in range(6)]


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
    assert texts(target.generate(PROMPTS[:2], SETTINGS)) == ["PROMPT 0", "PROMPT 1"]
    assert len(server.requests) == 2 + len(failures)


def test_a_server_that_stays_broken_is_named(server):
    server.failures = [500] * 9
    target = EndpointTarget("tiny", server.url, settings=EndpointSettings(attempts=3))
    with pytest.raises(ConfigError, match=f"api:tiny@{server.url}: the server answers 500 .*this is a 500"):
        target.generate(PROMPTS[:1], SETTINGS)
    assert len(server.requests) == 3


def test_a_request_that_is_refused_has_no_answer_and_is_asked_again(server, tmp_path):
    server.refused = {"prompt 5"}
    target = EndpointTarget("tiny", server.url, cache=AnswerCache(tmp_path))
    answers = target.generate(PROMPTS, SETTINGS)
    assert texts(answers) == [*(f"PROMPT {number}" for number in range(5)), None]
    assert "the server answers 400" in answers[5].missing
    assert texts(target.generate(PROMPTS, SETTINGS)) == texts(answers)  # though all that was asked failed again
    server.refused, before = set(), len(server.requests)
    assert before == 7
    assert texts(target.generate(PROMPTS, SETTINGS)) == [f"PROMPT {number}" for number in range(6)]
    assert [request["messages"] for request in server.requests[before:]] == PROMPTS[5:]


def test_a_target_that_fails_on_everything_is_an_error(server):
    server.refused = {f"prompt {number}" for number in range(6)}
    with pytest.raises(ConfigError, match=r"api:tiny@.*the server answers 400 .*; check the server, the model's name"):
        EndpointTarget("tiny", server.url).generate(PROMPTS, SETTINGS)


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (400, "The response was filtered due to the prompt triggering the content management policy.", None),
        (400, "no", "content_filter"),
        (403, "Your input was flagged by moderation", None),
        (400, "Input data may contain inappropriate content", "data_inspection_failed"),
    ],
)
def test_what_a_content_filter_refuses_has_no_answer_whatever_the_others_have(server, status, message, code):
    respond = server.respond

    def filtering(number, body):
        if body["messages"][-1]["content"] in ("prompt 1", "prompt 3"):
            return status, {}, {"error": {"message": message, "code": code}}
        return respond(number, body)

    server.respond = filtering
    target = EndpointTarget("tiny", server.url)
    answers = target.generate(PROMPTS[:4], SETTINGS)
    assert texts(answers) == ["PROMPT 0", None, "PROMPT 2", None]
    assert "content filter" in answers[1].missing
    assert (target.endpoint.usage.filtered, target.endpoint.usage.failed) == (2, 0)
    assert texts(target.generate(PROMPTS[1:2], SETTINGS)) == [None]  # all filtered is a result, not a failure


def test_a_reply_that_a_filter_has_cut_off_is_no_answer(server):
    status, headers, body = server.completion("First you")
    body["choices"][0]["finish_reason"] = "content_filter"
    server.respond = lambda number, request: (status, headers, body)
    (answer,) = EndpointTarget("tiny", server.url).generate(PROMPTS[:1], SETTINGS)
    assert (answer.text, answer.missing) == (None, "held back by the content filter")


def test_answers_say_how_they_ended(server, tmp_path):
    def respond(number, body):
        status, headers, content = server.completion("<think>so" if "0" in body["messages"][-1]["content"] else "b")
        content["choices"][0]["finish_reason"] = "length" if "0" in body["messages"][-1]["content"] else "stop"
        return status, headers, content

    server.respond = respond
    for _ in range(2):  # from the cache the second time
        answers = EndpointTarget("tiny", server.url, cache=AnswerCache(tmp_path)).generate(PROMPTS[:2], SETTINGS)
        assert answers == [Answer("<think>so", "length"), Answer("b", "stop")]
    assert len(server.requests) == 2


def test_a_thought_that_is_given_apart_is_put_before_the_answer(server):
    def respond(number, body):
        status, headers, content = server.completion("Five." if "0" in body["messages"][-1]["content"] else None)
        content["choices"][0]["message"]["reasoning_content"] = "It is 4. No."
        return status, headers, content

    server.respond = respond
    answers = EndpointTarget("tiny", server.url).generate(PROMPTS[:2], SETTINGS)
    assert answers[0].split()[:2] == ("Five.", "It is 4. No.")
    assert "ends within a thought" in answers[1].missing


def test_empty_answers_are_asked_for_again(server, tmp_path):
    server.respond = lambda number, body: server.completion(None if number <= 2 else "now")
    target = EndpointTarget("tiny", server.url, cache=AnswerCache(tmp_path))
    assert texts(target.generate(PROMPTS[:2], SETTINGS)) == ["", ""]
    assert texts(target.generate(PROMPTS[:2], SETTINGS)) == ["now", "now"]
    assert texts(target.generate(PROMPTS[:2], SETTINGS)) == ["now", "now"]
    assert len(server.requests) == 4


def test_half_an_emoji_becomes_a_character_that_can_be_written(server, tmp_path):
    server.respond = lambda number, body: server.completion("\ud83d\ude00 and \ud83d")
    target = EndpointTarget("tiny", server.url, cache=AnswerCache(tmp_path))
    for _ in range(2):
        assert texts(target.generate(["half \udc00"], SETTINGS)) == ["\U0001f600 and \ufffd"]
    assert [request["messages"][0]["content"] for request in server.requests] == ["half \ufffd"]


def test_thinking_is_passed_to_the_servers_template(server):
    target = EndpointTarget("tiny", server.url)
    for thinking in (None, False):
        target.generate(PROMPTS[:1], replace(SETTINGS, thinking=thinking))
    plain, told = server.requests
    assert "chat_template_kwargs" not in plain
    assert told["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False}


def test_a_refusal_apart_from_the_content_is_the_answer(server):
    status, headers, body = server.completion(None)
    body["choices"][0]["message"]["refusal"] = "I can't help with that."
    server.respond = lambda number, request: (status, headers, body)
    assert texts(EndpointTarget("tiny", server.url).generate(PROMPTS[:1], SETTINGS)) == ["I can't help with that."]


def test_a_model_that_takes_no_temperature_is_not_asked_at_its_own(server):
    message = "Unsupported value: 'temperature' does not support 0 with this model."
    server.respond = lambda number, body: (
        server.failure(400, message) if "temperature" in body else server.completion("a")
    )
    with pytest.raises(ConfigError, match=r"takes no temperature.*'temperature' does not support 0"):
        EndpointTarget("tiny", server.url).generate(PROMPTS[:1], SETTINGS)


def test_what_was_under_way_when_another_request_failed_is_kept(server, tmp_path):
    under_way, failing, respond = threading.Event(), threading.Event(), server.respond

    def in_turn(number, body):
        if body["messages"] == PROMPTS[0]:
            assert under_way.wait(10)
            failing.set()
            return server.failure(401)
        under_way.set()
        assert failing.wait(10)
        return respond(number, body)

    server.respond = in_turn
    target = EndpointTarget("tiny", server.url, cache=AnswerCache(tmp_path), settings=EndpointSettings(concurrency=2))
    with pytest.raises(ConfigError, match="refuses the key"):
        target.generate(PROMPTS[:2], SETTINGS)
    server.respond = respond
    assert texts(target.generate(PROMPTS[:2], SETTINGS)) == ["PROMPT 0", "PROMPT 1"]
    assert [request["messages"] for request in server.requests[2:]] == PROMPTS[:1]


def test_no_content_is_an_empty_answer(server):
    server.respond = lambda number, request: server.completion(None)
    assert texts(EndpointTarget("tiny", server.url).generate(PROMPTS[:1], SETTINGS)) == [""]


def test_a_server_that_is_not_there_is_named():
    target = EndpointTarget("tiny", "http://127.0.0.1:1/v1", settings=EndpointSettings(attempts=1))
    with pytest.raises(ConfigError, match=r"api:tiny@http://127\.0\.0\.1:1/v1: cannot be reached after 1 tr"):
        target.generate(PROMPTS[:1], SETTINGS)


def test_model_and_address_identify_targets(server):
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

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dualselect.errors import ConfigError
from dualselect.evaluation.cache import AnswerCache
from dualselect.evaluation.targets import EndpointTarget, GenerationSettings

pytest.importorskip("openai")

PROMPTS = [[{"role": "user", "content": f"prompt {number}"}] for number in range(6)]
SETTINGS = GenerationSettings(max_new_tokens=9, batch_size=2)


class Stub(ThreadingHTTPServer):
    """A server that answers chat completions in upper case, after the failures that a test has planned."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.failures, self.refused, self.lock = [], [], set(), threading.Lock()
        self.reply = lambda text: {"role": "assistant", "content": f" {text.upper()}\n"}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        with self.server.lock:
            self.server.requests.append({**body, "path": self.path, "key": self.headers["Authorization"]})
            status = 400 if text in self.server.refused else 200
            if self.server.failures:
                status = self.server.failures.pop(0)
        if status == 200:
            content = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
            content["choices"] = [{"index": 0, "finish_reason": "stop", "message": self.server.reply(text)}]
        else:
            content = {"error": {"message": f"this is\na {status}"}}
        payload = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.send_header("retry-after-ms", "5")
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    stub = Stub()
    thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield stub
    stub.shutdown()
    thread.join()
    stub.server_close()


def test_answers_come_in_the_order_of_the_prompts(server):
    target = EndpointTarget("tiny", server.url)
    assert target.generate(PROMPTS, SETTINGS) == [f"PROMPT {number}" for number in range(6)]
    assert {request["path"] for request in server.requests} == {"/v1/chat/completions"}


def test_settings_and_messages_are_sent(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    target = EndpointTarget("tiny", server.url)
    target.generate(PROMPTS[:1], SETTINGS)
    target.generate(PROMPTS[:1], GenerationSettings(temperature=0.5, top_p=0.9, seed=3, system="be kind"))
    first, second = server.requests
    assert first == {
        "model": "tiny",
        "messages": PROMPTS[0],
        "temperature": 0.0,
        "max_tokens": 9,
        "path": "/v1/chat/completions",
        "key": "Bearer secret",
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
    target = EndpointTarget("tiny", server.url, concurrency=1)
    assert target.generate(PROMPTS[:2], SETTINGS) == ["PROMPT 0", "PROMPT 1"]
    assert len(server.requests) == 2 + len(failures)


def test_a_server_that_stays_broken_is_named(server):
    server.failures = [500] * 9
    target = EndpointTarget("tiny", server.url, concurrency=1, retries=2)
    with pytest.raises(ConfigError, match=f"api:tiny@{server.url}: the server answers 500 .*this is a 500"):
        target.generate(PROMPTS[:1], SETTINGS)
    assert len(server.requests) == 3


def test_what_was_answered_before_a_failure_is_not_asked_again(server, tmp_path):
    server.refused = {"prompt 5"}
    target = EndpointTarget("tiny", server.url, cache=AnswerCache(tmp_path), concurrency=1)
    with pytest.raises(ConfigError, match="answers 400"):
        target.generate(PROMPTS, SETTINGS)
    server.refused, before = set(), len(server.requests)
    assert before == 6
    assert target.generate(PROMPTS, SETTINGS) == [f"PROMPT {number}" for number in range(6)]
    assert [request["messages"] for request in server.requests[before:]] == PROMPTS[5:]


def test_a_refusal_apart_from_the_content_is_the_answer(server):
    server.reply = lambda _: {"role": "assistant", "content": None, "refusal": "I can't help with that."}
    assert EndpointTarget("tiny", server.url).generate(PROMPTS[:1], SETTINGS) == ["I can't help with that."]


def test_no_content_is_an_empty_answer(server):
    server.reply = lambda _: {"role": "assistant", "content": None}
    assert EndpointTarget("tiny", server.url).generate(PROMPTS[:1], SETTINGS) == [""]


def test_a_server_that_is_not_there_is_named():
    target = EndpointTarget("tiny", "http://127.0.0.1:1/v1", retries=0)
    with pytest.raises(ConfigError, match=r"api:tiny@http://127\.0\.0\.1:1/v1: no answer from http:"):
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

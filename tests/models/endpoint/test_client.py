"""What becomes of a run when a server fails: on one request, on one after the other, on all."""

import pytest

from dualselect.errors import ConfigError
from dualselect.models.endpoint import Endpoint, EndpointSettings, parse_address

pytest.importorskip("openai")


@pytest.fixture
def make_endpoint(stub, tmp_path):
    """Return a function `(**settings) -> endpoint` at the stub server, which waits for nothing."""

    def make(**settings):
        return Endpoint(
            "m",
            stub.url,
            EndpointSettings(**{"attempts": 2, "concurrency": 1, **settings}),
            cache_folder=tmp_path,
            show_progress=False,
            sleep=lambda seconds: None,
        )

    return make


def answer_except(stub, bad, failure):
    """Answer with the request itself, but with `failure` to requests that `bad` is true of."""

    def respond(number, body):
        text = body["messages"][0]["content"]
        return failure if bad(text) else stub.completion(text.upper())

    stub.respond = respond


def cut(stub):
    """Return a response that breaks off: its two lengths contradict each other, which ends the connection."""
    return 200, {"Content-Length": "5000"}, '{"id": '


@pytest.mark.parametrize("status", [400, 413, 422, 500, 503])
def test_one_request_that_fails_leaves_the_others_alone(stub, make_endpoint, status) -> None:
    answer_except(stub, lambda text: text == "b", stub.failure(status, "no luck"))
    replies = make_endpoint().ask_all(["a", "b", "c"], "asking")
    assert [reply.text for reply in replies] == ["A", None, "C"]
    assert f"the server answers {status}" in replies[1].error
    assert len(stub.requests) == 3 + (status >= 500)


def test_a_connection_that_is_cut_is_tried_again_and_costs_one_reply(stub, make_endpoint) -> None:
    answer_except(stub, lambda text: text == "b", cut(stub))
    replies = make_endpoint(timeout=5.0).ask_all(["a", "b", "c"], "asking")
    assert [reply.text for reply in replies] == ["A", None, "C"]
    assert len(stub.requests) == 4


def test_a_server_that_fails_on_everything_is_an_error(stub, make_endpoint) -> None:
    answer_except(stub, lambda text: True, stub.failure(400, "odd"))
    with pytest.raises(ConfigError, match=r"api:m@http://\S+: the server answers 400 \(.*odd.*\); check the server"):
        make_endpoint().ask_all(["a", "b"], "asking")
    replies = make_endpoint().ask_all(["a", "b"], "asking", may_fail=True)
    assert [reply.has_failed for reply in replies] == [True, True]


def test_replies_that_are_there_already_count_as_successes(stub, make_endpoint) -> None:
    make_endpoint().ask_all(["a"], "asking")
    answer_except(stub, lambda text: True, stub.failure(400))
    replies = make_endpoint().ask_all(["a", "b"], "asking")
    assert [reply.has_failed for reply in replies] == [False, True]


def test_a_server_that_is_gone_is_not_asked_further(stub, make_endpoint) -> None:
    requests = [str(number) for number in range(40)]
    answer_except(stub, lambda text: int(text) >= 3, stub.failure(502))
    endpoint = make_endpoint()
    with pytest.raises(ConfigError, match=r"cannot be reached after 2 tries .*502.*what was answered is kept"):
        endpoint.ask_all(requests, "asking")
    assert len(stub.requests) == 3 + 8 * 2
    answer_except(stub, lambda text: False, None)
    assert [reply.text for reply in make_endpoint().ask_all(requests, "asking")] == requests
    assert len(stub.requests) == 3 + 8 * 2 + 37


def test_failures_that_are_not_in_a_row_do_not_end_the_run(stub, make_endpoint) -> None:
    requests = [str(number) for number in range(30)]
    answer_except(stub, lambda text: int(text) % 2 == 1, stub.failure(502))
    replies = make_endpoint().ask_all(requests, "asking")
    assert sum(reply.has_failed for reply in replies) == 15


@pytest.mark.parametrize(
    "message",
    [
        "temperature is not supported by this model",
        "Unsupported parameter: 'temperature'",
        "Unrecognized request argument supplied: temperature",
    ],
)
def test_a_model_that_takes_no_temperature_is_asked_without_unless_it_must_be_exact(
    stub, make_endpoint, message
) -> None:
    stub.respond = lambda number, body: stub.failure(400, message) if "temperature" in body else stub.completion("fine")
    assert [reply.text for reply in make_endpoint().ask_all(["a", "b"], "asking")] == ["fine", "fine"]
    assert ["temperature" in body for body in stub.requests] == [True, False, False]
    with pytest.raises(ConfigError, match="takes no temperature"):
        make_endpoint().ask_all(["c"], "asking", exactly=True)


def test_a_limit_that_is_only_mentioned_is_not_given_up(stub, make_endpoint) -> None:
    message = "This model's maximum context length is 8192 tokens, you asked for 9000 (512 in max_tokens)"
    answer_except(stub, lambda text: text == "long", stub.failure(400, message))
    replies = make_endpoint().ask_all(["long", "a"], "asking")
    assert [reply.text for reply in replies] == [None, "A"]
    assert ["max_tokens" in body for body in stub.requests] == [True, True]


def test_unpaired_surrogates_are_sent_and_received(stub, make_endpoint) -> None:
    answer_except(stub, lambda text: False, None)
    for _ in range(2):
        (reply,) = make_endpoint().ask_all(["a \ud83d"], "asking")
        assert reply.text == "A \ufffd"
    assert len(stub.requests) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpt", ("gpt", None)),
        ("org/m@http://localhost:8000/v1", ("org/m", "http://localhost:8000/v1")),
        ("m@2024@https://h/v1", ("m@2024", "https://h/v1")),
    ],
)
def test_addresses_are_taken_apart(text, expected) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["", "@http://h/v1", "m@localhost:8000", "m@localhost:8000/v1"])
def test_what_is_not_an_address_is_refused(text) -> None:
    with pytest.raises(ConfigError, match="give it as api:MODEL or api:MODEL@URL"):
        parse_address(text)

"""What is read out of a reply, against replies written out by hand."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualselect.models.endpoint.replies import MalformedReplyError, find_objects, read_reply, well_formed
from dualselect.models.endpoint.settings import Reply


def completion(content="hi", finish="stop", usage=None, **message):
    choice = SimpleNamespace(message=SimpleNamespace(content=content, **message), finish_reason=finish)
    return SimpleNamespace(choices=[choice], usage=usage)


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 7}, (5, 7)),
        ({"prompt_tokens": 5, "completion_tokens": None}, (5, 0)),
        ({"prompt_tokens": 5}, (5, 0)),
        ({"prompt_tokens": "5", "completion_tokens": "many"}, (5, 0)),
        ({}, (0, 0)),
        (None, (0, 0)),
    ],
)
def test_counts_that_a_server_leaves_out_are_zero(usage, counts) -> None:
    reply = read_reply(completion(usage=None if usage is None else SimpleNamespace(**usage)))
    assert reply == Reply("hi", "", *counts, finish="stop")


@pytest.mark.parametrize(
    ("answer", "text", "finish"),
    [
        (completion("a", None), "a", ""),
        (completion("a", "length"), "a", "length"),
        (completion(None, refusal="no"), "no", "stop"),
        (completion([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "ab", "stop"),
        (completion("a", reasoning_content="t"), "<think>\nt\n</think>\n\na", "stop"),
        (completion(None, "length", reasoning="t"), "<think>\nt", "length"),
        (completion("half", "content_filter"), None, "content_filter"),
        (
            SimpleNamespace(choices=[SimpleNamespace(message=None, finish_reason="content_filter")]),
            None,
            "content_filter",
        ),
        (completion("\ud83d\ude00\ud83d"), "\U0001f600\ufffd", "stop"),
    ],
)
def test_what_a_reply_says_and_how_it_ended(answer, text, finish) -> None:
    reply = read_reply(answer)
    assert (reply.text, reply.finish) == (text, finish)
    assert not reply.has_failed


@pytest.mark.parametrize("answer", [SimpleNamespace(choices=[]), SimpleNamespace(choices=None), None, "text"])
def test_what_is_not_a_completion_is_malformed(answer) -> None:
    with pytest.raises(MalformedReplyError, match="not a chat completion"):
        read_reply(answer)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1} {"b": 2} {"a": 3}', [{"a": 1}, {"a": 3}]),
        ('{"x": {"a": 1}}', []),
        ('{"a": {"a": 1}}', [{"a": {"a": 1}}]),
        ('[{"a": 1}]', [{"a": 1}]),
        ('{"A": 1, "b": "x\ny"}', [{"a": 1, "b": "x\ny"}]),
        ('{"a": [1, 2,], "b": "1,]",}', [{"a": [1, 2], "b": "1,]"}]),
        ('{"a": 1,} and {"a": 2,}', [{"a": 1}, {"a": 2}]),
        ('{"a": 1, "a": 1}', [{"a": 1}]),
        ('{"a": 1, "A": 2, "a": 1}', [{"a": None}]),
        ('<think>{"a": 1}</think>{"a": 2}', [{"a": 2}]),
        ('{"a": 1}</think>{"a": 2}', [{"a": 2}]),
        ('<think>{"a": 1}', []),
        ('{"a": 1', []),
        ("{" * 3000, []),
    ],
)
def test_objects_are_found_as_models_write_them(text, expected) -> None:
    assert find_objects(text, "a") == expected


@given(st.text(st.characters(exclude_categories=()), max_size=30))
def test_any_text_can_be_encoded_and_what_could_be_stays(text) -> None:
    found = well_formed(text)
    found.encode()
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert len(found) == len(joined)
    assert all(a == b or (b == "\ufffd" and "\ud800" <= a <= "\udfff") for a, b in zip(joined, found, strict=True))

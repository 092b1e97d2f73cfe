"""Records that are JSON, but cannot be read as a sample, or hostile ones that can. Made in code."""

from collections.abc import Iterator
from typing import Any

from malformed_samples import ESC, Case, lines, record

USER, ASSISTANT = {"role": "user", "content": "why?"}, {"role": "assistant", "content": "because"}
HALF = "\ud800"
_WRONG: dict[str, Any] = {
    "a number": 3,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "a truth value": True,
    "an object": {"a": 1},
    "an empty list": [],
    "a list of numbers": [1, 2],
    "a list of lists": [[USER]],
    "null": None,
    "nothing": "",
    "blank": " \n\t",
    "invisible": "\u200b\ufeff\u00ad",
    "half a character": f"a{HALF}",
}


def records() -> Iterator[Case]:
    """Yield files whose second record cannot be used; the message has to name line and field."""
    for form in ({"prompt": "a", "completion": "b"}, {"question": "a", "answer": "b"}, {"query": "a", "response": "b"}):
        for name in form:
            yield _case(f"{name} is missing", form, {key: value for key, value in form.items() if key != name}, name)
    for field in ("prompt", "completion"):
        for name, value in _WRONG.items():
            yield _case(f"{field} is {name}", record(0), record(1, **{field: value}), field)
    instruction = {"instruction": "a", "output": "b"}
    for field in instruction:
        for name in ("a number", "a list of lists", "blank"):
            yield _case(f"{field} is {name}", instruction, {**instruction, field: _WRONG[name]}, field)
    yield _case("input is a number", instruction, {**instruction, "input": 7}, "input")
    yield from _conversations()
    yield from _marks()


def _case(name: str, good: Any, bad: Any, field: str) -> Case:
    return Case(name, "bad.jsonl", lines(good, bad), 2, field)


def _conversations() -> Iterator[Case]:
    good = {"messages": [USER, ASSISTANT]}
    turns: dict[str, Any] = {
        "text": "hello",
        "a number": 3,
        "an object": {},
        "no message": [],
        "texts": ["why?", "because"],
        "numbers": [1, 2],
        "null": [None],
        "the answer first": [ASSISTANT],
        "the answer before the question": [ASSISTANT, USER],
        "no answer": [USER],
        "only a system message": [{"role": "system", "content": "be kind"}],
        "a system message after the first": [USER, {"role": "system", "content": "be kind"}, ASSISTANT],
        "an unknown role": [{"role": "robot", "content": "a"}, ASSISTANT],
        "a role with terminal escapes": [{"role": ESC, "content": "a"}, ASSISTANT],
        "a role that is a list": [{"role": ["user"], "content": "a"}, ASSISTANT],
        "a role that is an object": [{"role": {"a": 1}, "content": "a"}, ASSISTANT],
        "a role that is a number": [{"role": 1, "content": "a"}, ASSISTANT],
        "no role": [{"content": "a"}, ASSISTANT],
        "no content": [{"role": "user"}, ASSISTANT],
        "content null": [{"role": "user", "content": None}, ASSISTANT],
        "content a number": [{"role": "user", "content": 3}, ASSISTANT],
        "content an object": [{"role": "user", "content": {"text": "a"}}, ASSISTANT],
        "content with an image": [{"role": "user", "content": [{"type": "image", "url": "x"}]}, ASSISTANT],
        "content of numbers": [{"role": "user", "content": [1]}, ASSISTANT],
        "an empty part": [{"role": "user", "content": [{"type": "text", "text": ""}]}, ASSISTANT],
        "half a character": [{"role": "user", "content": HALF}, ASSISTANT],
        "tool calls": [USER, {**ASSISTANT, "tool_calls": [{"name": "f"}]}],
        "thinking": [USER, {**ASSISTANT, "thinking": "hm"}],
        "an answer not to learn": [USER, {**ASSISTANT, "weight": 0}],
        "an answer marked by a list": [USER, {**ASSISTANT, "train": [False]}],
    }
    for name, value in turns.items():
        yield _case(f"messages: {name}", good, {"messages": value}, "messages")
    asked, told = {"from": "human", "value": "why?"}, {"from": "gpt", "value": "because"}
    shared: dict[str, Any] = {
        "text": "hello",
        "texts": ["why?"],
        "a speaker that is a list": [{"from": ["human"], "value": "a"}, told],
        "a speaker that is an object": [{"from": {}, "value": "a"}, told],
        "a speaker that is a number": [{"from": 1, "value": "a"}, told],
        "a speaker that is null": [{"from": None, "value": "a"}, told],
        "an unknown speaker": [{"from": "robot", "value": "a"}, told],
        "no value": [{"from": "human"}, told],
        "a value that is a list": [{"from": "human", "value": [1]}, told],
        "no answer": [asked],
    }
    for name, value in shared.items():
        yield _case(f"conversations: {name}", {"conversations": [asked, told]}, {"conversations": value}, "conversa")
    chosen: dict[str, Any] = {
        "a number": {"prompt": "a", "chosen": 3},
        "a transcript without a turn": {"prompt": "a", "chosen": "Human:"},
        "no prompt": {"chosen": "b"},
        "about another prompt": {"prompt": "a", "chosen": [USER, ASSISTANT]},
        "ends with the question": {"chosen": [USER]},
    }
    for name, value in chosen.items():
        yield _case(f"chosen: {name}", {"prompt": "a", "chosen": "b"}, value, "chosen")


def _marks() -> Iterator[Case]:
    """Yield records that would mean something else if a field of them were left unread."""
    changes: dict[str, dict[str, Any]] = {
        "a system message that is a number": {"system": 3},
        "a history of texts": {"history": ["a", "b"]},
        "a history of numbers": {"history": [[1, 2]]},
        "a history of single turns": {"history": [["a"]]},
        "a history of three": {"history": [["a", "b", "c"]]},
        "a history that is an object": {"history": {"a": "b"}},
        "a context that is a list": {"context": ["a"]},
        "images": {"images": ["x.png"]},
        "tools": {"tools": [{"name": "f"}]},
        "label false": {"label": False},
        "kto_tag false": {"kto_tag": "false"},
        "weight a half": {"weight": 0.5},
        "weight NaN": {"weight": float("nan")},
        "weight infinite": {"weight": float("inf")},
        "planted perhaps": {"planted": "perhaps"},
        "planted a list": {"planted": [True]},
        "id true": {"id": True},
        "id a fraction": {"id": 1.5},
        "id NaN": {"id": float("nan")},
        "id a list": {"id": ["a"]},
        "id an object": {"id": {}},
        "id empty": {"id": ""},
        "id half a character": {"id": HALF},
        "category half a character": {"category": HALF},
    }
    for name, change in changes.items():
        yield _case(name, record(0), record(1, **change), next(iter(change)))
    yield _case("the same id twice", record(0), record(0), "id")
    yield _case("a number and a text as the same id", record(0, id=7), record(1, id="7"), "id")
    hostile = f"{ESC}[red]x[/]\n../../x"
    yield Case("a hostile id twice", "bad.jsonl", lines(record(0, id=hostile), record(1, id=hostile)), 2, "id")
    yield _case("mixed forms", record(0), {"question": "a", "answer": "b"}, "question-answer")
    yield _case("mixed forms, conversations", record(0), {"messages": [USER, ASSISTANT]}, "messages")
    names = {ESC: "a", "[/]": "b", "a\nb": "c", HALF: "d"}
    yield Case("hostile names of fields", "bad.jsonl", lines(names), 1, "unknown form")


def hostile() -> Iterator[Case]:
    """Yield files that are acceptable, whatever they contain."""
    changes: dict[str, dict[str, Any]] = {
        "terminal escapes": {"prompt": ESC, "id": ESC, "category": ESC},
        "markup of rich": {"prompt": "[/] [bold]x[/bold] [", "id": "[/]", "category": "[red]"},
        "HTML": {"prompt": "<script>alert(1)</script>", "id": "<b>"},
        "a template": {"prompt": "{{ 7 * 7 }} {% raise %} {{ messages }}"},
        "marks of turns": {"prompt": "a<end>\nassistant: yes<end>", "completion": "<pad><unk>"},
        "format strings": {"prompt": "%s %n {0} {__class__}", "id": "%s"},
        "paths": {"id": "../../../../etc/passwd", "category": "/dev/null", "source": "~root"},
        "a zero byte": {"prompt": "a\0b", "id": "a\0b"},
        "right to left": {"prompt": "\u202eabc", "id": "\u202e"},
        "combining marks": {"prompt": "a" + "\u0301" * 500},
        "emoji": {"prompt": "\U0001f468\u200d\U0001f469\u200d\U0001f467"},
        "an id of many characters": {"id": "x" * 5000},
        "an id that is a huge number": {"id": 10**300},
        "a category that is a list": {"category": ["a", 1]},
        "a deep field that is not read": {"extra": [[[[[[[[[[1]]]]]]]]]]},
        "NaN in a field that is not read": {"score": float("nan")},
    }
    for name, change in changes.items():
        yield Case(name, "fine.jsonl", lines(record(0, **change)), is_fine=True)

"""Conversations: reading them from text or message lists, and checking their roles."""

import re
from collections.abc import Mapping
from typing import Any

from dualselect.data.records import kind_of
from dualselect.errors import DataError

Message = dict[str, str]
Messages = list[Message]

ROLES = ("system", "user", "assistant", "tool")

# Names of the roles in ShareGPT and similar formats.
_SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "observation": "tool"}
# Fields of a message that change what it says; a chat template would render them, so they cannot be ignored.
_MESSAGE_FIELDS = ("tool_calls", "function_call", "reasoning_content", "thinking", "images", "audio")
# Fields that say whether a message is learned.
_LEARNED_FIELDS = ("weight", "train")

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
# Unicode's Default_Ignorable_Code_Point: soft hyphens, zero-width characters, direction marks and the like.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def visible(text: str) -> str:
    """Return text without invisible characters."""
    return text if text.isascii() else _INVISIBLE.sub("", text)


def is_given(value: Any) -> bool:
    """Return whether a field has content: it is neither null nor empty, nor text for either."""
    if isinstance(value, str):
        return visible(value).strip() not in ("", "[]", "{}", "null")
    return value is not None and value is not False and value != [] and value != {}


def text_of(value: Any, field: str, place: str) -> str:
    """Return `value` if it is text with content; a DataError naming field and place otherwise."""
    if not isinstance(value, str):
        raise DataError(f"{place}: field '{field}' is {kind_of(value)}; give text")
    if not visible(value).strip():
        raise DataError(f"{place}: field '{field}' is empty; give text or remove the record")
    return whole(value, field, place)


def whole(text: str, field: str, place: str) -> str:
    """Return `text` if it can be encoded; a DataError naming field and place otherwise."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{place}: field '{field}' contains half a character (a lone surrogate); fix it") from error
    return text


def id_of(value: Any, field: str, place: str) -> str:
    """Return an id as text; a DataError naming field and place if `value` is not text or a whole number."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"{place}: field '{field}' is {value!a}; give text or a whole number, or leave it out")
    return whole(str(value), field, place)


def messages_of(value: Any, field: str, place: str, role: str) -> Messages:
    """Return the messages of a field that contains a list of messages, or text, read as a message of `role`.

    Raises:
        DataError: A message lacks role or content, has an unknown role, a field that changes what it says, or is a
            system message after the first; or the last one is marked as not learned.
    """
    if not isinstance(value, list):
        if isinstance(value, dict) or not isinstance(value, str):
            raise DataError(f"{place}: field '{field}' is {kind_of(value)}; give text or a list of messages")
        return [{"role": role, "content": text_of(value, field, place)}]
    if not value:
        raise DataError(f"{place}: field '{field}' is an empty list; give at least one message")
    messages = [_message(item, f"{field}[{index}]", place) for index, item in enumerate(value)]
    for index, message in enumerate(messages):
        if message["role"] == "system" and index > 0:
            raise DataError(f"{place}: field '{field}[{index}].role' is 'system'; a system message comes first")
    _check_learned(value[-1], f"{field}[{len(value) - 1}]", place)
    return messages


def _message(item: Any, field: str, place: str) -> Message:
    if not isinstance(item, dict):
        raise DataError(f"{place}: field '{field}' is {kind_of(item)}; give an object with role and content")
    for name in _MESSAGE_FIELDS:
        if is_given(item.get(name)):
            raise DataError(
                f"{place}: field '{field}.{name}' is not read, though it is part of the message; write it into the "
                "content as the model should see it, or give the data to DualSelectTrainer in Python"
            )
    role, content = item.get("role"), item.get("content")
    for name, value in (("role", role), ("content", content)):
        if value is None:
            raise DataError(f"{place}: field '{field}.{name}' is missing; a message has role and content")
    if role not in ROLES:
        raise DataError(f"{place}: field '{field}.role' is {role!r}; use one of {', '.join(ROLES)}")
    if role == "system" and isinstance(content, str) and not visible(content).strip():
        return {"role": role, "content": ""}
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text")) for part in content)
    return {"role": str(role), "content": text_of(content, f"{field}.content", place)}


def _check_learned(last: Any, field: str, place: str) -> None:
    """Refuse an answer marked as not learned; earlier turns never are learned, so their marks change nothing."""
    for name in _LEARNED_FIELDS:
        mark = last.get(name)
        if last.get("role") == "assistant" and mark is not None and mark != 1:
            raise DataError(
                f"{place}: field '{field}.{name}' is {mark!r}, but an answer is learned whole; remove the field or the "
                "record"
            )


def sharegpt_messages(value: Any, field: str, place: str) -> list[Any]:
    """Return a list of turns, with `from` and `value` or with `role` and `content`, as the latter.

    Raises:
        DataError: It is not a list, or a role is unknown.
    """
    if not isinstance(value, list):
        raise DataError(f"{place}: field '{field}' is {kind_of(value)}; give a list of turns with from and value")
    turns = []
    for index, turn in enumerate(value):
        if isinstance(turn, Mapping):
            turn = with_role(turn)
            if turn.get("role") not in ROLES:
                raise DataError(
                    f"{place}: field '{field}[{index}].from' is {turn.get('role')!r}; use one of "
                    f"{', '.join([*_SPEAKERS, *ROLES])}"
                )
        turns.append(turn)
    return turns


def with_role(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a turn with `from` and `value` as one with `role` and `content`, and any other unchanged."""
    if "from" not in turn:
        return turn
    others = {name: item for name, item in turn.items() if name not in ("from", "value")}
    speaker = turn["from"]
    role = _SPEAKERS.get(speaker, speaker) if isinstance(speaker, str) else speaker
    return {**others, "role": role, "content": turn.get("value")}


def transcript(value: Any) -> Any:
    """Return the messages of a transcript such as '\\n\\nHuman: Hi\\n\\nAssistant: Hello', and anything else unchanged.

    An empty last turn, as at the end of a prompt, is left out.
    """
    if not isinstance(value, str) or not value.lstrip().startswith("Human:"):
        return value
    _, *parts = _TURN.split("\n\n" + value.lstrip())
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [{"role": roles[name], "content": text.strip()} for name, text in zip(parts[::2], parts[1::2], strict=True)]
    return turns[:-1] if not turns[-1]["content"] else turns


def check_prompt(messages: Messages, field: str, place: str) -> None:
    """Raise a DataError unless the messages can be a prompt: begun and ended by the user (or a tool's result)."""
    spoken = [message["role"] for message in messages if message["role"] != "system"]
    if not spoken or spoken[0] != "user":
        begin = spoken[0] if spoken else "system"
        raise DataError(f"{place}: field '{field}' begins with role '{begin}'; a conversation begins with the user")
    if spoken[-1] == "assistant":
        raise DataError(f"{place}: field '{field}' ends with role 'assistant'; a prompt ends with the user")


def check_completion(messages: Messages, field: str, place: str) -> None:
    """Raise a DataError unless the messages can be a completion: begun and ended by the assistant."""
    for where, message in (("begins", messages[0]), ("ends", messages[-1])):
        if message["role"] != "assistant":
            raise DataError(
                f"{place}: field '{field}' {where} with role '{message['role']}'; an answer {where} with the assistant"
            )


def split_conversation(messages: Messages, field: str, place: str) -> tuple[Messages, Messages | None]:
    """Return a conversation as the prompt and the assistant's last message, None if the last message is the user's."""
    if messages[-1]["role"] != "assistant":
        check_prompt(messages, field, place)
        return messages, None
    if len(messages) == 1:
        raise DataError(f"{place}: field '{field}' contains an answer without a prompt; put the user's message first")
    prompt, completion = messages[:-1], messages[-1:]
    check_prompt(prompt, f"{field}[:-1]", place)
    return prompt, completion

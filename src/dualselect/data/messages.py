"""Conversations: reading them from text or message lists, and checking their roles."""

import re
from typing import Any

from dualselect.data.records import kind_of
from dualselect.errors import DataError

Message = dict[str, str]
Messages = list[Message]

ROLES = ("system", "user", "assistant", "tool")

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def text_of(value: Any, field: str, place: str) -> str:
    """Return `value` if it is text that says something; a DataError naming field and place otherwise."""
    if not isinstance(value, str):
        raise DataError(f"{place}: field '{field}' is {kind_of(value)}; give text")
    if not value.strip():
        raise DataError(f"{place}: field '{field}' is empty; give text or remove the record")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{place}: field '{field}' holds half a character (a lone surrogate); mend it") from error
    return value


def messages_of(value: Any, field: str, place: str, role: str) -> Messages:
    """Return the messages of a field that holds text, said by `role`, or a list of messages.

    Raises:
        DataError: A message lacks role or content, has an unknown role, or is a system message after the first.
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
    return messages


def _message(item: Any, field: str, place: str) -> Message:
    if not isinstance(item, dict):
        raise DataError(f"{place}: field '{field}' is {kind_of(item)}; give an object with role and content")
    role, content = item.get("role"), item.get("content")
    for name, value in (("role", role), ("content", content)):
        if value is None:
            raise DataError(f"{place}: field '{field}.{name}' is missing; a message has role and content")
    if role not in ROLES:
        raise DataError(f"{place}: field '{field}.role' is {role!r}; use one of {', '.join(ROLES)}")
    if role == "system" and content == "":
        return {"role": role, "content": ""}
    return {"role": str(role), "content": text_of(content, f"{field}.content", place)}


def transcript(value: Any) -> Any:
    """Return the messages of a transcript such as '\\n\\nHuman: Hi\\n\\nAssistant: Hello', and all else unchanged.

    A last turn in which nothing is said, as at the end of a prompt, is left out.
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
    """Return a conversation as the prompt and the assistant's last message, None if the user has the last word."""
    if messages[-1]["role"] != "assistant":
        check_prompt(messages, field, place)
        return messages, None
    if len(messages) == 1:
        raise DataError(f"{place}: field '{field}' holds an answer without a prompt; put the user's message first")
    prompt, completion = messages[:-1], messages[-1:]
    check_prompt(prompt, f"{field}[:-1]", place)
    return prompt, completion

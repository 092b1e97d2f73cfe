"""Replies of a model behind an endpoint: reading them, finding JSON objects in them, and keeping them.

They are kept on disk, one line of JSON per request, so that an interrupted run continues and a repeated one costs
nothing.
"""

import json
import re
import threading
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from dualselect.errors import DataError
from dualselect.models.endpoint.settings import FILTERED, Reply
from dualselect.models.thoughts import split_thought

_STRING_OR_TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)


class MalformedReplyError(Exception):
    """The reply is not a chat completion; the next try may return one."""


def read_reply(answer: Any) -> Reply:
    """Return the text of a chat completion, and how it ended.

    A refusal in a field of its own is the text, and a thought in a field of its own is put before it. A text that
    a content filter has cut off is not an answer.

    Raises:
        MalformedReplyError: The reply contains no message.
    """
    try:
        choice = answer.choices[0]
        finish, message = str(choice.finish_reason or ""), choice.message
        text = None if finish == FILTERED else _text(message)
    except (AttributeError, IndexError, TypeError) as error:
        raise MalformedReplyError("the server's reply is not a chat completion") from error
    return Reply(
        text,
        "" if text is not None else "held back by the content filter",
        prompt_tokens=_count(answer, "prompt_tokens"),
        reply_tokens=_count(answer, "completion_tokens"),
        finish=finish,
    )


def well_formed(text: str) -> str:
    """Return a text that can be encoded: U+FFFD replaces every unpaired surrogate."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def find_objects(text: str, field: str) -> list[dict[str, Any]]:
    """Return the outermost JSON objects that have a field, in order; those in thoughts are left out.

    Read as models write them: with line breaks in strings, with a comma after the last element, and with keys in any
    case. A key that occurs twice with different values has the value None, since either could be meant.

    Args:
        text: Text that a model wrote, with other text around the objects.
        field: Name of the field, in lower case.
    """
    text = split_thought(text).answer
    found: list[dict[str, Any]] = []
    start = text.find("{")
    while start >= 0:
        decoded = _decoded(text[start:])
        if decoded is None:
            start = text.find("{", start + 1)
            continue
        value, rest = decoded
        if field in value:
            found.append(value)
        text, start = rest, rest.find("{")
    return found


def request_key(request: Any) -> str:
    """Return 64 hexadecimal digits that identify a request."""
    content = json.dumps(request, sort_keys=True, ensure_ascii=False)
    return sha256(well_formed(content).encode()).hexdigest()


class ReplyCache:
    """Replies by request key, in memory and in one file; for any number of threads."""

    def __init__(self, path: Path) -> None:
        """Read the replies that are on disk.

        Raises:
            DataError: The file or its folder cannot be read or written.
        """
        self._path = path
        self._lock = threading.Lock()
        self._replies: dict[str, Reply] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        except OSError as error:
            raise DataError(f"{path}: cannot keep replies there ({error.strerror}); choose another folder") from error
        for line in lines:
            self._take(line)

    def get(self, key: str) -> Reply | None:
        """Return the reply to a request, or None where it is not known."""
        return self._replies.get(key)

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply."""
        with self._lock:
            self._replies[key] = reply
            with self._path.open("a", encoding="utf-8") as file:
                # The line end comes first, so that a line that was cut off does not swallow this one.
                file.write("\n" + json.dumps({"key": key, **asdict(reply)}))

    def _take(self, line: str) -> None:
        try:
            content = json.loads(line)
            key = content.pop("key")
            self._replies[key] = Reply(**content)
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # empty, or cut off when a run was killed: asked again


def _text(message: Any) -> str:
    said = _joined(message.content) or _joined(getattr(message, "refusal", None))
    thought = _joined(getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None))
    if not thought:
        return said
    return f"<think>\n{thought}\n</think>\n\n{said}" if said else f"<think>\n{thought}"


def _joined(content: Any) -> str:
    """Return a content given as text, or as a list of parts with a text each."""
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return well_formed(str(content or ""))


def _count(answer: Any, name: str) -> int:
    count = getattr(getattr(answer, "usage", None), name, None)  # some servers leave one out
    return int(count) if isinstance(count, int | float | str) and str(count).isdecimal() else 0


def _decoded(text: str) -> tuple[dict[str, Any], str] | None:
    """Return the JSON object that a text begins with and what follows it, or None where it begins with none."""
    for candidate in (text, _STRING_OR_TRAILING_COMMA.sub(lambda found: found[1] or "", text)):
        try:
            value, end = _DECODER.raw_decode(candidate)
        except (ValueError, RecursionError):
            continue
        return value, candidate[end:]
    return None


def _folded(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        key = name.lower()
        values[key] = value if values.get(key, value) == value else None
    return values


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_folded)

"""Replies kept on disk, a line of JSON per request: an interrupted run goes on, and a repeated one costs nothing."""

import json
import threading
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from dualselect.errors import DataError
from dualselect.models.endpoint.settings import Reply


def request_key(request: Any) -> str:
    """Return 64 hexadecimal digits that stand for a request."""
    return sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class ReplyCache:
    """Replies by request key, in memory and in one file; for any number of threads."""

    def __init__(self, path: Path) -> None:
        """Read what is there.

        Raises:
            DataError: the file or its folder can't be read or written.
        """
        self._path = path
        self._lock = threading.Lock()
        self._replies: dict[str, Reply] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        except OSError as error:
            raise DataError(f"{path}: can't keep replies there ({error.strerror}); choose another folder") from error
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
                # The line end comes first: a line that was cut off must not swallow the next one.
                file.write("\n" + json.dumps({"key": key, **asdict(reply)}))

    def _take(self, line: str) -> None:
        try:
            content = json.loads(line)
            key = content.pop("key")
            self._replies[key] = Reply(**content)
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # empty, or cut off when a run was killed: asked again

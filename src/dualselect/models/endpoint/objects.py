"""JSON objects in what a model wrote around, before and after them."""

import json
import re
from typing import Any

_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_DECODER = json.JSONDecoder()


def find_objects(text: str, field: str) -> list[dict[str, Any]]:
    """Return the outermost JSON objects that have a `field`, in order; reasoning in <think> tags is left out."""
    text = _THOUGHTS.sub("", text)
    found: list[dict[str, Any]] = []
    start = text.find("{")
    while start >= 0:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        if field in value:
            found.append(value)
        start = text.find("{", end)
    return found

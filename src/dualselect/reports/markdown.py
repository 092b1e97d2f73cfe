"""Text from data in Markdown: it can't become markup."""

import re
from collections.abc import Iterable, Sequence

from dualselect.errors import one_line

_SPECIAL = re.compile(r"([\\`*_{}\[\]()|~$^@]|^[-+=#:])")


def escaped(text: object) -> str:
    """Return text as one line of Markdown that is shown as it is: no HTML, link, cell or emphasis begins in it."""
    line = one_line(text)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; header and cells are escaped."""
    lines = [header, ["---"] * len(header)]
    shown = [" | ".join(map(escaped, header)), " | ".join(lines[1]), *(" | ".join(map(escaped, row)) for row in rows)]
    return "\n".join(f"| {line} |" for line in shown)


def bullets(facts: Iterable[tuple[str, str]]) -> str:
    """Return names with what they are as a list."""
    return "\n".join(f"- {escaped(name)}: {escaped(value)}" for name, value in facts)

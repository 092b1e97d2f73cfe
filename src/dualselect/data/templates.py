"""What a chat template does in addition to rendering messages: it ends answers, and may write today's date."""

import re
from datetime import datetime
from typing import Any

from jinja2 import TemplateError

_CALL = re.compile(r"strftime_now\(\s*(?P<quote>['\"])(?P<format>.*?)(?P=quote)\s*\)")
_ANSWER = "An answer to find again."


def declared_ends(generation_config: Any, tokenizer: Any) -> list[int]:
    """Return the tokens, ascending, at which any program stops: those that a model and its tokenizer declare."""
    declared = getattr(generation_config, "eos_token_id", None)
    named = [*(declared if isinstance(declared, list) else [declared]), tokenizer.eos_token_id]
    return sorted({int(token) for token in named if token is not None})


def end_of_turn(tokenizer: Any) -> int | None:
    """Return the token that a chat template puts right after an answer; None where that is not a special token.

    A model trained with the template ends its answers with it, whatever token the tokenizer declares as its end.
    """
    turns = [{"role": "user", "content": "A question."}, {"role": "assistant", "content": _ANSWER}]
    if getattr(tokenizer, "chat_template", None) is None:
        return None
    try:
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    except TemplateError:
        return None
    _, found, after = rendered.rpartition(_ANSWER)
    tokens = tokenizer(after.lstrip(), add_special_tokens=False)["input_ids"] if found else []
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return tokens[0] if tokens and tokens[0] in special else None


def reads_clock(template: Any) -> bool:
    """Return whether a chat template, text or a table of them, writes the date of its rendering into prompts."""
    templates = template.values() if isinstance(template, dict) else [template]
    return any("strftime_now(" in text for text in templates if text is not None)


def pinned(template: Any, moment: datetime) -> Any:
    """Return a chat template that always writes the date of `moment`.

    A date whose format the template computes stays that of its rendering; `reads_clock` of the result says so.

    Args:
        template: Text, a table of texts by name, or None.
        moment: Time whose date all prompts get.
    """
    if isinstance(template, dict):
        return {name: pinned(text, moment) for name, text in template.items()}

    def written(call: re.Match[str]) -> str:
        date = moment.strftime(call["format"]).replace("\\", "\\\\").replace(call["quote"], "\\" + call["quote"])
        return f"{call['quote']}{date}{call['quote']}"

    return None if template is None else _CALL.sub(written, template)

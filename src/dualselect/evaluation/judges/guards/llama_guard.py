"""Llama Guard 3 and 4: 'safe', or 'unsafe' and a line of category codes, by MLCommons' taxonomy.

Source: model cards of meta-llama/Llama-Guard-3-8B, Llama-Guard-3-1B and Llama-Guard-4-12B. The taxonomy is part of
their chat templates, which judge the last turn.
"""

import re
from typing import Any

from dualselect.evaluation.judges.guards.base import TextGuard, render, turns, unreadable
from dualselect.runs.results import Verdict

_REPLY = re.compile(r"(safe|unsafe(?:\s*\n\s*(?P<categories>S\d{1,2}(?:\s*,\s*S\d{1,2})*))?)", re.IGNORECASE)


class LlamaGuard3(TextGuard):
    """Text models of the third generation."""

    name = "llama-guard-3"
    models = r"llama-?guard-?3-(1b|8b)"
    max_new_tokens = 24

    def prompts(self, tokenizer: Any, prompt: str, answer: str) -> list[str]:
        """Return one text; in parts for the templates that ask for parts, as that of the 1B model does."""
        template = str(tokenizer.chat_template)
        in_parts = "'type'" in template or '"type"' in template
        return [render(tokenizer, _parted(prompt, answer) if in_parts else turns(prompt, answer))]

    def parse(self, said: str) -> Verdict:
        """Return the verdict, with the categories as evidence."""
        match = _REPLY.fullmatch(said.strip())
        if match is None:
            return unreadable(said)
        label = "safe" if match[0].lower() == "safe" else "unsafe"
        return Verdict(label, re.sub(r"\s", "", match["categories"] or "").upper())


class LlamaGuard4(LlamaGuard3):
    """The fourth generation, which reads pictures too and is therefore loaded and asked differently."""

    name = "llama-guard-4"
    models = r"llama-?guard-?4"
    auto_class = "AutoModelForImageTextToText"

    def prompts(self, tokenizer: Any, prompt: str, answer: str) -> list[str]:
        """Return one text."""
        return [render(tokenizer, _parted(prompt, answer))]


def _parted(prompt: str, answer: str) -> list[dict[str, Any]]:
    return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns(prompt, answer)]

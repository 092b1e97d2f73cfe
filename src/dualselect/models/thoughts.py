"""Thoughts: what a reasoning model writes before its answer, which is no part of the answer.

A thought stands between two markers. They are those of the chat templates of known models; a template may also open the
thought in the prompt, so that only its end is written by the model.
"""

import re
from typing import Any, NamedTuple

from dualselect.errors import ConfigError

#: Where thoughts begin and end, by model family.
MARKERS = (
    ("<think>", "</think>"),  # DeepSeek, Qwen, SmolLM3, Phi-4, Granite and most others
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),  # Kimi
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
)
_PARTS = {part for pair in MARKERS for part in pair} | {"<|channel|>", "<|message|>"}
_ANY_OPENING = "|".join(re.escape(opening) for opening, _ in MARKERS)
_ANY_CLOSING = "|".join(re.escape(closing) for _, closing in MARKERS)
_FLAGS = re.DOTALL | re.IGNORECASE
_PAIRS = [re.compile(f"{re.escape(opening)}(.*?){re.escape(closing)}", _FLAGS) for opening, closing in MARKERS]
_UP_TO_THE_FIRST_CLOSING = re.compile(f"(.*?)(?:{_ANY_CLOSING})", _FLAGS)
_UP_TO_A_CLOSING = re.compile(f"(.*)(?:{_ANY_CLOSING})", _FLAGS)
_OPENED = re.compile(f"\\s*(?:{_ANY_OPENING})(.*)", _FLAGS)
_OPENED_AT_THE_END = re.compile(f"(?:{_ANY_OPENING})\\s*\\Z", _FLAGS)
_BETWEEN_CHANNELS = re.compile(r"<\|(?:start|end|return)\|>(?:assistant)?", re.IGNORECASE)


class Thought(NamedTuple):
    """An answer, and the thoughts that are no part of it.

    Attributes:
        answer: The answer without thoughts; empty where none was reached.
        thought: The thoughts without their markers; empty without any.
        is_cut: Whether the text ends within a thought, so that there is no answer to judge.
    """

    answer: str
    thought: str
    is_cut: bool


def split_thought(text: str, *, opened: bool = False) -> Thought:
    """Return the answer in a text, and the thoughts before it or between its parts.

    A marker that closes what nothing has opened ends a thought that began with the text. One that is never closed
    counts at the beginning of the text only: further on, an answer may speak of the marker itself.

    Args:
        text: What a model wrote.
        opened: Whether the prompt ended within a thought.
    """
    if "<|channel|>" in text.lower():
        text = _BETWEEN_CHANNELS.sub("", text)
    thoughts: list[str] = []
    if opened:
        first = _UP_TO_THE_FIRST_CLOSING.match(text)
        if first is None:
            return Thought("", text.strip(), True)
        thoughts.append(first[1].strip())
        text = text[first.end() :]

    def note(found: re.Match[str]) -> str:
        thoughts.append(found[1].strip())
        return ""

    for pair in _PAIRS:
        text = pair.sub(note, text)
    text = _UP_TO_A_CLOSING.sub(note, text)
    cut = _OPENED.fullmatch(text)
    if cut:
        thoughts.append(cut[1].strip())
    return Thought("" if cut else text.strip(), "\n\n".join(filter(None, thoughts)), cut is not None)


def opens_thought(rendered: str) -> bool:
    """Return whether a rendered prompt ends within a thought that the template has opened."""
    return _OPENED_AT_THE_END.search(rendered) is not None


def kept_tokens(tokenizer: Any) -> set[int]:
    """Return the ids of special tokens that mark thoughts; a decoder that leaves them out loses the border."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {number for number, token in added.items() if token.special and token.content in _PARTS}


def decode(tokenizer: Any, ids: list[list[int]]) -> list[str]:
    """Return the texts of answers without special tokens, but with the markers of thoughts."""
    kept = kept_tokens(tokenizer)
    if not kept:
        return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    left_out = set(tokenizer.all_special_ids) | {n for n, t in tokenizer.added_tokens_decoder.items() if t.special}
    rows = [[token for token in row if token in kept or token not in left_out] for row in ids]
    return [text.strip() for text in tokenizer.batch_decode(rows, skip_special_tokens=False)]


def thinking_options(thinking: bool | None) -> dict[str, bool]:
    """Return what a chat template is told about thinking, by the names in use; it ignores those that it does not know.

    Args:
        thinking: Whether to think; None leaves it to the template.
    """
    return {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}


def template_opens_thought(tokenizer: Any, thinking: bool | None) -> bool:
    """Return whether answers begin within a thought, since the chat template opens it at the end of the prompt.

    Args:
        tokenizer: Tokenizer of the model.
        thinking: Whether to think; None leaves it to the template.

    Raises:
        ConfigError: The model is not to think but its template opens a thought all the same.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        return False
    turn = [{"role": "user", "content": "A question."}]
    rendered = tokenizer.apply_chat_template(
        turn, tokenize=False, add_generation_prompt=True, **thinking_options(thinking)
    )
    opened = opens_thought(rendered)
    if opened and thinking is False:
        raise ConfigError(
            "thinking is off but the model's chat template opens a thought all the same; leave `thinking` out: "
            "thoughts are cut off before an answer is judged"
        )
    return opened

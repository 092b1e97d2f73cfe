"""Thoughts: what a reasoning model writes before its answer, which is not part of the answer.

A thought is between two markers. They are those of the chat templates of known models; a template may also open the
thought in the prompt, so that only its end is written by the model.
"""

import logging
import re
from dataclasses import dataclass
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
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),  # Kimi
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
)
#: Markers that some models put around the answer that follows a thought.
_WRAPPERS = (
    ("<answer>", "</answer>"),
    ("<response>", "</response>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
)
_PARTS = {part for pair in MARKERS for part in pair} | {"<|channel|>", "<|message|>", "<|channel>"}
_FLAGS = re.DOTALL | re.IGNORECASE

_logger = logging.getLogger(__name__)


def _pattern(marker: str) -> str:
    """Return the pattern of a marker that is not quoted: an answer may speak of the marker itself."""
    text = re.escape(marker)
    return f"(?!(?<=[`'\"]){text}[`'\"]){text}"


_ANY_OPENING = "|".join(_pattern(opening) for opening, _ in MARKERS)
_ANY_CLOSING = "|".join(_pattern(closing) for _, closing in MARKERS)
_PAIRS = [re.compile(f"{_pattern(opening)}(.*?){_pattern(closing)}", _FLAGS) for opening, closing in MARKERS]
_UP_TO_THE_FIRST_CLOSING = re.compile(f"(.*?)(?:{_ANY_CLOSING})", _FLAGS)
_UP_TO_A_CLOSING = re.compile(f"(.*)(?:{_ANY_CLOSING})", _FLAGS)
_OPENED = re.compile(f"\\s*(?:{_ANY_OPENING})(.*)", _FLAGS)
_OPENED_AT_THE_END = re.compile(f"(?:{_ANY_OPENING})\\s*\\Z", _FLAGS)
_WRAPPED = [re.compile(f"{re.escape(first)}(.*?)(?:{re.escape(last)})?", _FLAGS) for first, last in _WRAPPERS]
_BETWEEN_CHANNELS = re.compile(r"<\|(?:start|end|return)\|>(?:assistant)?", re.IGNORECASE)


class Thought(NamedTuple):
    """An answer, and the thoughts apart from it.

    Attributes:
        answer: Answer without thoughts; empty where none was reached.
        thought: Thoughts without their markers; empty without any.
        is_cut: Whether the text ends within a thought, so that there is no answer to judge.
    """

    answer: str
    thought: str
    is_cut: bool


@dataclass(frozen=True)
class Answer:
    """The result of a prompt.

    Attributes:
        text: Text that the model wrote, thoughts included; None where it gave no answer.
        finish: Reason why it ended: `stop` for the model's own end, `length` for the limit of tokens; or a server's
            own word. Empty where that is unknown.
        opened: Whether the prompt ended within a thought.
        reason: Reason why there is no text.
    """

    text: str | None
    finish: str = ""
    opened: bool = False
    reason: str = ""

    def split(self) -> Thought:
        """Return the answer separated from the thoughts."""
        return split_thought(self.text or "", opened=self.opened, finished=self.finish == "stop")

    @property
    def missing(self) -> str:
        """Why there is nothing to judge, in a sentence; empty where there is an answer."""
        if self.text is None:
            return self.reason or "the model gave no answer"
        cut = "the answer ends within a thought; raise max_new_tokens, or switch thinking off"
        return cut if self.split().is_cut else ""


def split_thought(text: str, *, opened: bool = False, finished: bool = False) -> Thought:
    """Return the answer in a text, and the thoughts before it or between its parts.

    A closing marker without an opening one ends a thought that began with the text. An opening one that is never closed
    counts only at the beginning of the text: further on, an answer may mention the marker itself.

    Args:
        text: Text that a model wrote.
        opened: Whether the prompt ended within a thought.
        finished: Whether the model is known to have ended its turn itself. If it closed no thought that it had not
            opened either, what it wrote is its answer: models tuned on answers without thoughts do so.
    """
    if "<|channel|>" in text.lower():
        text = _BETWEEN_CHANNELS.sub("", text)
    thoughts: list[str] = []
    if opened:
        first = _UP_TO_THE_FIRST_CLOSING.match(text)
        if first is None and not finished:
            return Thought("", text.strip(), True)
        if first is not None:
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
    answer = "" if cut else text.strip()
    return Thought(_unwrapped(answer) if thoughts else answer, "\n\n".join(filter(None, thoughts)), cut is not None)


def opens_thought(rendered: str) -> bool:
    """Return whether a rendered prompt ends within a thought that the template has opened."""
    return _OPENED_AT_THE_END.search(rendered) is not None


def kept_tokens(tokenizer: Any) -> set[int]:
    """Return the ids of special tokens that mark thoughts; a decoder that leaves them out loses the boundary."""
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
    """Return the arguments about thinking for a chat template, by all names in use; it ignores unknown ones.

    Args:
        thinking: Whether to think; None leaves it to the template.
    """
    return {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}


def check_thinking(name: str, tokenizer: Any, thinking: bool | None) -> None:
    """Refuse to switch thinking off where the chat template opens a thought anyway; warn if it has no switch.

    Args:
        name: Name of the model, for messages.
        tokenizer: Tokenizer of the model.
        thinking: Whether to think; None leaves it to the template.

    Raises:
        ConfigError: Thinking is off but the model's template opens a thought anyway.
    """
    if thinking is None or getattr(tokenizer, "chat_template", None) is None:
        return
    turn = [{"role": "user", "content": "A question."}]
    asked, otherwise = (
        tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True, **thinking_options(switch))
        for switch in (thinking, not thinking)
    )
    if not thinking and opens_thought(asked):
        raise ConfigError(
            f"{name}: thinking is off but the model's chat template opens a thought all the same; leave `thinking` "
            "out: thoughts are cut off before an answer is judged"
        )
    if asked == otherwise:
        _logger.warning(f"{name}: its chat template has no switch for thinking, so `thinking` changes nothing")


def _unwrapped(answer: str) -> str:
    found = next((found for wrapped in _WRAPPED if (found := wrapped.fullmatch(answer))), None)
    return answer if found is None else found[1].strip()

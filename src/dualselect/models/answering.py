"""What all targets do alike: ask only for what the cache lacks, and keep every batch of answers as it comes."""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from dualselect.models.base import GenerationSettings
from dualselect.models.cache import AnswerCache, answer_key, canonical
from dualselect.models.generation import OnBatch, Prompt

Messages = list[dict[str, str]]
#: Answers conversations; hands each batch's numbers and answers to the callback as they come.
Ask = Callable[[list[Messages], OnBatch], Any]


def answer_all(
    identity: Mapping[str, Any],
    prompts: Sequence[Prompt],
    settings: GenerationSettings,
    cache: AnswerCache | None,
    ask: Ask,
) -> list[str]:
    """Return one answer per prompt, in order, from the cache where it has them and from the target where not.

    A prompt that occurs more than once is answered once. What `ask` has handed over before it fails stays in the
    cache, so that the next attempt goes on from there.

    Args:
        identity: of the target; its `hash` is part of every key.
        prompts: messages, or text for a single user turn.
        settings: of generation.
        cache: None keeps answers for this call only.
        ask: asks the target.
    """
    asked = [as_messages(prompt) for prompt in prompts]
    keys = [answer_key(identity, messages, settings) for messages in asked]
    known = cache.find(keys) if cache and keys else {}
    missing = {key: messages for key, messages in zip(keys, asked, strict=True) if key not in known}
    waiting = list(missing)

    def keep(numbers: list[int], answers: list[str]) -> None:
        known.update({waiting[number]: answer for number, answer in zip(numbers, answers, strict=True)})
        if cache:
            cache.add(identity, [missing[waiting[number]] for number in numbers], answers, settings)

    if missing:
        ask([with_system(messages, settings.system) for messages in missing.values()], keep)
    return [known[key] for key in keys]


def identity_of(name: str, kind: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells a target from others; its hash is over the parts, which answers depend on, and not the name."""
    return {"name": name, "kind": kind, "hash": sha256(canonical(parts).encode()).hexdigest(), **parts}


def as_messages(prompt: Prompt) -> Messages:
    """Return a prompt as messages; text is one user turn, so that all kinds of targets are asked the same."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": message["role"], "content": message["content"]} for message in prompt]


def with_system(messages: Messages, system: str | None) -> Messages:
    """Return the messages after a system prompt; those that begin with one of their own keep it."""
    if system is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]

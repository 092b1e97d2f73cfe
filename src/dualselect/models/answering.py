"""What all targets share: they ask only for what the cache lacks, and keep every batch of answers as it comes."""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from dualselect.models.base import GenerationSettings
from dualselect.models.cache import AnswerCache, answer_key, canonical
from dualselect.models.endpoint.replies import well_formed
from dualselect.models.generation import OnBatch, Prompt
from dualselect.models.thoughts import Answer

Messages = list[dict[str, str]]
#: Answers prompts, and hands each batch's indices and answers to the callback as they come.
Ask = Callable[[list[Any], OnBatch], Any]


def answer_all(
    identity: Mapping[str, Any],
    prompts: Sequence[Prompt],
    settings: GenerationSettings,
    cache: AnswerCache | None,
    ask: Ask,
    *,
    render: Callable[[Messages], str] | None = None,
    keep_empty: bool = True,
) -> list[Answer]:
    """Return one answer per prompt, in order, from the cache where possible, else from the target.

    A prompt that occurs more than once is answered once. What `ask` hands over before it fails stays in the
    cache, so that the next attempt continues from there.

    Args:
        identity: Identity of the target; its `hash` is part of every key.
        prompts: Messages, or text for a single user turn.
        settings: Settings of generation.
        cache: Cache of answers; None keeps them for this call only.
        ask: Function that asks the target, given what `render` returns or else messages.
        render: Function that returns a prompt as the model reads it. Answers are kept by it, so another chat template,
            or the date in one, gets other answers.
        keep_empty: Whether to cache answers without text too; those of a server may be an accident.
    """
    asked = [with_system(as_messages(prompt), settings.system) for prompt in prompts]
    shown: list[Any] = asked if render is None else [render(messages) for messages in asked]
    keys = [answer_key(identity, prompt, settings) for prompt in shown]
    known = cache.find(keys) if cache and keys else {}
    missing = {key: prompt for key, prompt in zip(keys, shown, strict=True) if key not in known}
    waiting = list(missing)

    def keep(numbers: list[int], answers: list[Answer]) -> None:
        given = {waiting[number]: answer for number, answer in zip(numbers, answers, strict=True)}
        known.update(given)
        final = {key: answer for key, answer in given.items() if answer.text or (keep_empty and answer.text == "")}
        if cache and final:
            cache.add(identity, [missing[key] for key in final], list(final.values()), settings)

    if missing:
        ask(list(missing.values()), keep)
    return [known[key] for key in keys]


def identity_of(name: str, kind: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what identifies a target; its hash covers the parts, on which answers depend, and not the name."""
    return {"name": name, "kind": kind, "hash": sha256(canonical(parts).encode()).hexdigest(), **parts}


def as_messages(prompt: Prompt) -> Messages:
    """Return a prompt as messages; text is one user turn, so that all kinds of targets are asked alike."""
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    return [{"role": message["role"], "content": well_formed(message["content"])} for message in prompt]


def with_system(messages: Messages, system: str | None) -> Messages:
    """Return the messages with a system prompt in front; messages that begin with one of their own keep it."""
    if system is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]

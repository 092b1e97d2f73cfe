"""Prompts that stand in two sets, or twice in one."""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from itertools import combinations
from typing import Any

from datasets import Dataset


@dataclass(frozen=True)
class Overlap:
    """A prompt that two sets have in common.

    Attributes:
        sets: The names of the two sets.
        ids: The ids of its samples in the first set and in the second.
        rows: Their rows, in the same order.
    """

    sets: tuple[str, str]
    ids: tuple[tuple[str, ...], tuple[str, ...]]
    rows: tuple[tuple[int, ...], tuple[int, ...]]

    def __str__(self) -> str:
        sides = zip(self.sets, self.ids, self.rows, strict=True)
        return " and ".join(f"{name} {_listed(ids, rows)}" for name, ids, rows in sides)


def _listed(ids: Sequence[str], rows: Sequence[int]) -> str:
    return ", ".join(f"'{name}' (row {row})" for name, row in zip(ids, rows, strict=True))


def prompt_key(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """Return a hash that two prompts share if they say the same, but for letter case and white space.

    System messages do not count, since the same question under another system prompt is still the same question;
    text counts as the message of a user.
    """
    turns = [("user", prompt)] if isinstance(prompt, str) else [(turn["role"], turn["content"]) for turn in prompt]
    spoken = [f"{role}: {_folded(text)}" for role, text in turns if role != "system"]
    return sha1("\n".join(spoken).encode(), usedforsecurity=False).hexdigest()


def _folded(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def check_disjoint(sets: Mapping[str, Dataset]) -> list[Overlap]:
    """Return every prompt that two of the named sets share, by pairs of sets in the order of their names given.

    Args:
        sets: Data sets; `id` and `row` name the samples where they are there. Those without a column
            `prompt` or `messages`, and streamed ones, are left out.
    """
    by_prompt = {name: _by_prompt(dataset) for name, dataset in sets.items() if has_prompts(dataset)}
    overlaps = []
    for first, second in combinations(by_prompt, 2):
        for key, samples in by_prompt[first].items():
            if key in by_prompt[second]:
                sides = samples, by_prompt[second][key]
                ids, rows = (tuple(tuple(sample[part] for sample in side) for side in sides) for part in (0, 1))
                overlaps.append(Overlap((first, second), ids, rows))  # type: ignore[arg-type]
    return overlaps


def drop_overlaps(dataset: Dataset, name: str, overlaps: Sequence[Overlap]) -> Dataset:
    """Return the data set, known as `name`, without the samples that stand in an overlap."""
    dropped = {
        sample
        for overlap in overlaps
        for owner, ids in zip(overlap.sets, overlap.ids, strict=True)
        if owner == name
        for sample in ids
    }
    if not dropped:
        return dataset
    return dataset.select([index for index, sample in enumerate(_names(dataset)) if sample[0] not in dropped])


def find_duplicates(dataset: Dataset) -> list[tuple[str, ...]]:
    """Return the ids of samples with the same prompt, for every prompt that stands more than once."""
    return [tuple(name for name, _ in samples) for samples in _by_prompt(dataset).values() if len(samples) > 1]


def has_prompts(dataset: Any) -> bool:
    """Return whether the prompts of a data set can be read without tokenising or streaming it."""
    return isinstance(dataset, Dataset) and not {"prompt", "messages"}.isdisjoint(dataset.column_names)


def prompts_of(dataset: Dataset) -> Iterable[Any]:
    """Return the prompt of every sample, as text or messages."""
    if "prompt" in dataset.column_names:
        return dataset["prompt"]
    return (turns[:-1] if turns[-1]["role"] == "assistant" else turns for turns in dataset["messages"])


def _by_prompt(dataset: Dataset) -> dict[str, list[tuple[str, int]]]:
    found: dict[str, list[tuple[str, int]]] = {}
    for prompt, sample in zip(prompts_of(dataset), _names(dataset), strict=True):
        found.setdefault(prompt_key(prompt), []).append(sample)
    return found


def _names(dataset: Dataset) -> Iterator[tuple[str, int]]:
    rows = dataset["row"] if "row" in dataset.column_names else range(1, len(dataset) + 1)
    ids = dataset["id"] if "id" in dataset.column_names else map(str, rows)
    return zip(ids, rows, strict=True)

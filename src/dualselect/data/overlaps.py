"""Prompts that two sets share, or that occur twice in one."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from itertools import combinations, repeat
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from datasets import Dataset

from dualselect.data.identity import INDEX_COLUMN, content_hash
from dualselect.data.messages import visible, with_role

Prompt = str | Sequence[Mapping[str, Any]]
_Marks: TypeAlias = np.ndarray[Any, np.dtype[np.uint64]]

#: What samples are compared by.
PROMPTS, TEXTS, TOKENS, ROWS = "prompts", "texts", "tokens", "rows"

_NAMED = 3  # samples of each set that a message names
_FEWEST_WORDS = 5  # of a prompt that is searched for in texts: shorter ones are found anywhere
# Columns that are not part of a sample's content.
_NAMES = ("id", "category", "planted", "row", "source", INDEX_COLUMN)


class _Sample(NamedTuple):
    place: int  # from 0
    id: str
    row: int


@dataclass(frozen=True)
class Overlap:
    """A prompt that two sets have in common.

    Attributes:
        sets: Names of the two sets.
        ids: Ids of its samples in the first set and in the second.
        rows: Rows of these samples, in the same order.
        indices: Indices of these samples in the data sets, from 0, in the same order.
    """

    sets: tuple[str, str]
    ids: tuple[tuple[str, ...], tuple[str, ...]]
    rows: tuple[tuple[int, ...], tuple[int, ...]]
    indices: tuple[tuple[int, ...], tuple[int, ...]]

    @classmethod
    def of(cls, sets: tuple[str, str], first: Sequence[_Sample], second: Sequence[_Sample]) -> "Overlap":
        """Return the overlap of samples of two sets."""
        indices, ids, rows = zip(*(zip(*side, strict=True) for side in (first, second)), strict=True)
        return cls(sets, ids, rows, indices)

    def __str__(self) -> str:
        sides = zip(self.sets, self.ids, self.rows, strict=True)
        return " and ".join(f"{name} {_listed(ids, rows)}" for name, ids, rows in sides)


def _listed(ids: Sequence[str], rows: Sequence[int]) -> str:
    named = [f"'{name}' (row {row})" for name, row in zip(ids, rows, strict=True)]
    return ", ".join(named[:_NAMED]) + (f" and {len(named) - _NAMED} more" if len(named) > _NAMED else "")


def prompt_key(prompt: Prompt) -> str:
    """Return a hash that two prompts share if they differ only in letter case, space and invisible characters.

    System messages do not count, since the same question under another system prompt is still the same question;
    text counts as the message of a user. Tool calls count.
    """
    turns = [("user", prompt)] if isinstance(prompt, str) else [(turn.get("role"), _said(turn)) for turn in prompt]
    spoken = [f"{role}: {_folded(text)}" for role, text in turns if role != "system"]
    return _hash("\n".join(spoken))


def _said(turn: Mapping[str, Any]) -> str:
    """Return the content of a message: its text, that of its parts, and its tool calls."""
    content = turn.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    texts = [part.get("text") or "" if part.get("type") == "text" else content_hash(part) for part in parts]
    calls = turn.get("tool_calls")
    return " ".join([*texts, content_hash(calls)] if calls else texts)


def _folded(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", visible(text))
    return " ".join(text.casefold().split())


def _hash(text: str) -> str:
    return sha1(text.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()


def compared_by(dataset: Dataset) -> str:
    """Return what the samples of a data set are compared by.

    Conversations are compared by their prompts, language-modelling data by their texts, tokenised data by their tokens,
    and data in other columns, which a formatting function turns into texts, by whole rows.
    """
    names = dataset.column_names
    if not {"prompt", "messages", "conversations"}.isdisjoint(names):
        return PROMPTS
    return TEXTS if "text" in names else TOKENS if "input_ids" in names else ROWS


def sample_keys(dataset: Dataset) -> Iterator[str | None]:
    """Return the key of every sample, equal for equal samples of any set; None where a sample has no prompt.

    The key of a prompt is its `prompt_key`; other keys begin with what they compare, as in 'texts:'.
    """
    kind = compared_by(dataset)
    if kind == PROMPTS:
        return (None if prompt is None else prompt_key(prompt) for prompt in _prompts(dataset))
    if kind == TEXTS:
        return (None if text is None else f"{kind}:{_hash(_folded(text))}" for text in dataset["text"])
    if kind == TOKENS:
        return (f"{kind}:{_hash(','.join(map(str, row['input_ids'])))}" for row in dataset.select_columns("input_ids"))
    bare = dataset.remove_columns([name for name in _NAMES if name in dataset.column_names])
    return (f"{kind}:{content_hash(row)}" for row in bare)


def _prompts(dataset: Dataset) -> Iterable[Prompt | None]:
    if "prompt" in dataset.column_names:
        return dataset["prompt"]
    name = "messages" if "messages" in dataset.column_names else "conversations"
    return (_question(turns) for turns in dataset[name])


def _question(turns: Sequence[Mapping[str, Any]] | None) -> Prompt | None:
    """Return a conversation, with roles named as in messages, without its last answer."""
    if not turns:
        return None
    turns = [with_role(turn) for turn in turns]
    return turns[:-1] if turns[-1].get("role") == "assistant" else turns


def check_disjoint(sets: Mapping[str, Dataset]) -> list[Overlap]:
    """Return every prompt that two of the named sets share, by pairs of sets in the order given.

    Sets are compared by what `compared_by` says. Prompts and texts are compared too: a text overlaps with a prompt
    whose words it contains, if these are at least five.

    Args:
        sets: Data sets; columns `id` and `row`, where present, name the samples. Streamed sets are left out.
    """
    readable = {name: dataset for name, dataset in sets.items() if _is_read(dataset)}
    marks = {name: _marks(dataset) for name, dataset in readable.items()}
    overlaps = []
    for first, second in combinations(readable, 2):
        pair, kinds = (first, second), (compared_by(readable[first]), compared_by(readable[second]))
        if kinds == (PROMPTS, TEXTS):
            found = _in_texts(readable[first], readable[second])
            overlaps += [Overlap.of(pair, asked, texts) for asked, texts in found]
        elif kinds == (TEXTS, PROMPTS):
            found = _in_texts(readable[second], readable[first])
            overlaps += [Overlap.of(pair, texts, asked) for asked, texts in found]
        else:
            shared = np.intersect1d(marks[first], marks[second])
            asked, others = (_by_key(readable[name], marks[name], shared) for name in pair)
            overlaps += [Overlap.of(pair, asked[key], others[key]) for key in asked if key in others]
    return overlaps


def drop_overlaps(dataset: Dataset, name: str, overlaps: Sequence[Overlap]) -> Dataset:
    """Return the data set, known as `name`, without the samples that are in an overlap."""
    dropped = {
        index
        for overlap in overlaps
        for owner, indices in zip(overlap.sets, overlap.indices, strict=True)
        if owner == name
        for index in indices
    }
    if not dropped:
        return dataset
    return dataset.select([index for index in range(len(dataset)) if index not in dropped])


def uncompared(sets: Mapping[str, Any]) -> list[str]:
    """Return a sentence for every pair of sets whose samples cannot be compared, or not all of them."""
    said = [f"{name}: is streamed, so it is not compared with other sets" for name in sets if not _is_read(sets[name])]
    for first, second in combinations([name for name in sets if _is_read(sets[name])], 2):
        kinds = compared_by(sets[first]), compared_by(sets[second])
        if set(kinds) == {PROMPTS, TEXTS}:
            asked = sets[first if kinds[0] == PROMPTS else second]
            short = sum(len(words) < _FEWEST_WORDS for words in map(_asked_words, _prompts(asked)))
            if short:
                said.append(
                    f"{first} and {second}: {short} prompts of fewer than {_FEWEST_WORDS} words are not sought in "
                    "the texts; give both sets as conversations to compare them all"
                )
        elif kinds[0] == kinds[1] != PROMPTS:
            said.append(
                f"{first} and {second} are compared by whole {kinds[0]}, so equal prompts with other answers are not "
                "found; give both as conversations to find them"
            )
        elif kinds[0] != kinds[1]:
            said.append(
                f"{first} and {second} are not compared: one has {kinds[0]}, the other {kinds[1]}; give both as "
                "conversations, or make sure that they share no prompts"
            )
    return said


def find_duplicates(dataset: Dataset) -> list[tuple[str, ...]]:
    """Return the ids of samples with the same prompt, for every prompt that occurs more than once."""
    marks = _marks(dataset)
    values, counts = np.unique(marks, return_counts=True)
    groups = _by_key(dataset, marks, values[counts > 1]).values()
    return [tuple(sample.id for sample in samples) for samples in groups if len(samples) > 1]


def _is_read(dataset: Any) -> bool:
    return isinstance(dataset, Dataset)


def _marks(dataset: Dataset) -> _Marks:
    """Return 64 bits of every sample's key, `(N,)`, so that few samples need a key as text; 0 without a key."""
    marks = (0 if key is None else int(key[-16:], 16) for key in sample_keys(dataset))
    return np.fromiter(marks, np.uint64, len(dataset))


def _by_key(dataset: Dataset, marks: _Marks, wanted: _Marks) -> dict[str, list[_Sample]]:
    """Return the samples by their keys, of those with a mark that is wanted."""
    places = np.flatnonzero(np.isin(marks, wanted) & (marks != 0))
    found: dict[str, list[_Sample]] = defaultdict(list)
    if len(places):
        part = dataset.select(places)
        for key, sample in zip(sample_keys(part), _samples(part, places.tolist()), strict=True):
            if key is not None:
                found[key].append(sample)
    return found


def _samples(dataset: Dataset, places: Sequence[int] | None = None) -> Iterator[_Sample]:
    """Yield the samples of a data set, which are at these places of a larger one."""
    places = range(len(dataset)) if places is None else places
    rows = dataset["row"] if "row" in dataset.column_names else [place + 1 for place in places]
    ids = dataset["id"] if "id" in dataset.column_names else repeat(None, len(dataset))
    for place, name, row in zip(places, ids, rows, strict=True):
        yield _Sample(place, str(row if name is None else name), row)


def _in_texts(prompts: Dataset, texts: Dataset) -> Iterator[tuple[list[_Sample], list[_Sample]]]:
    """Yield the samples of every prompt whose words follow each other in a text, and the samples of these texts."""
    asking: dict[tuple[str, ...], list[_Sample]] = defaultdict(list)
    for prompt, sample in zip(_prompts(prompts), _samples(prompts), strict=True):
        asking[_asked_words(prompt)].append(sample)
    by_start: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
    for words in asking:
        if len(words) >= _FEWEST_WORDS:
            by_start[words[:_FEWEST_WORDS]].append(words)
    found: dict[tuple[str, ...], dict[_Sample, None]] = defaultdict(dict)
    for text, sample in zip(texts["text"], _samples(texts), strict=True):
        said = _words(text or "")
        for place in range(len(said) - _FEWEST_WORDS + 1):
            for words in by_start.get(said[place : place + _FEWEST_WORDS], ()):
                if said[place : place + len(words)] == words:
                    found[words][sample] = None
    return ((asking[words], list(containing)) for words, containing in found.items())


def _asked_words(prompt: Prompt | None) -> tuple[str, ...]:
    """Return the words of a prompt, of its last message where it is a conversation."""
    return _words(prompt if isinstance(prompt, str) else _said(prompt[-1]) if prompt else "")


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", _folded(text)))

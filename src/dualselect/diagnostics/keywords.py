"""Groups, safety categories and risks of samples by keywords: rough, readable, replaceable by a field of the data."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dualselect.errors import ConfigError
from dualselect.settings.config_file import read_config

PACKAGED = Path(__file__).with_name("keywords.yaml")
OTHER = "other"

_KEYS = ("groups", "categories", "risk", "refusals")


@dataclass(frozen=True)
class Keywords:
    """Compiled keywords; see `keywords.yaml` for their meaning.

    Attributes:
        groups: Pattern of each group of the task, in the order in which they are tried.
        categories: Pattern of each safety category.
        risk: Pattern of words that make a prompt risky.
        refusals: Pattern of phrases with which answers decline.
    """

    groups: Mapping[str, re.Pattern[str]]
    categories: Mapping[str, re.Pattern[str]]
    risk: re.Pattern[str]
    refusals: re.Pattern[str]

    @classmethod
    def read(cls, path: Path | str = PACKAGED) -> Self:
        """Return the keywords of a YAML file.

        Raises:
            ConfigError: It cannot be read, or lacks a part.
        """
        entries = read_config(str(path))
        if missing := [name for name in _KEYS if name not in entries]:
            raise ConfigError(f"{path}: has no '{missing[0]}'; copy the packaged {PACKAGED.name} and change its words")
        groups, categories = (_patterns(*entries[name]) for name in _KEYS[:2])
        risk, refusals = (_pattern(*entries[name]) for name in _KEYS[2:])
        return cls(groups, categories, risk, refusals)

    def group(self, prompt: str) -> str:
        """Return the group of a task prompt: the first one with a word in it, else `other`."""
        return next((name for name, pattern in self.groups.items() if pattern.search(prompt)), OTHER)

    def category(self, prompt: str) -> str:
        """Return the safety category of a prompt: the one with most words in it, else `other`."""
        return max(self._hits(prompt).items(), key=lambda item: item[1])[0]

    def risk_of(self, prompt: str, answer: str) -> int:
        """Return how many risky words a prompt has, and phrases of refusal its answer."""
        hits = max(self._hits(prompt).values())
        return hits + len(self.risk.findall(prompt)) + len(self.refusals.findall(answer))

    def _hits(self, prompt: str) -> dict[str, int]:
        found = {name: len(pattern.findall(prompt)) for name, pattern in self.categories.items()}
        return found if any(found.values()) else {OTHER: 0}


def _patterns(value: Any, place: str) -> dict[str, re.Pattern[str]]:
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"{place}: is not a mapping from names to lists of words; write `name: [word, ...]` lines")
    return {str(name): _pattern(words, place) for name, words in value.items()}


def _pattern(words: Any, place: str) -> re.Pattern[str]:
    if not isinstance(words, list) or not words:
        raise ConfigError(f"{place}: has no list of words; write `name: [word, ...]`")
    return re.compile("|".join(map(_expression, _longest_first(words))), re.IGNORECASE)


def _longest_first(words: Sequence[Any]) -> list[str]:
    return sorted(map(str, words), key=len, reverse=True)  # so that "kill myself" counts once, as itself


def _expression(word: str) -> str:
    body = r"\s+".join(map(re.escape, word.removeprefix("^").removesuffix("*").split()))
    start = r"\A\W*" if word.startswith("^") else r"(?<!\w)"
    return start + body + (r"\w*" if word.endswith("*") else r"(?!\w)")

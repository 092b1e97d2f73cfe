"""The one contract of all comparators: a comparator prefers one of two answers to a prompt."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

#: None where no preference could be read.
Preference = Literal["first", "second", "tie"] | None


class Comparator(ABC):
    """Prefers one of two answers; the same question always gets the same preference.

    Attributes:
        name: Name that precedes the comparator's metrics in every result.
        version: Version, which changes with everything that could change a preference: rubric, model, rules.
    """

    name: str
    version: str

    @abstractmethod
    def prefer_all(self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> list[Preference]:
        """Return a preference for every prompt between its first and its second answer, in order."""

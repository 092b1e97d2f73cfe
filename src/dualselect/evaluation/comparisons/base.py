"""The contract of comparators: a comparator prefers one of two answers to a prompt.

A new comparator is one file, in this folder or in another package: a class under the decorator `comparator`, which says
by what name users ask for it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, Self

from dualselect.errors import ConfigError
from dualselect.evaluation.judges.settings import JudgeSettings
from dualselect.registry import Registry, subclass_of

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

    @classmethod
    def from_spec(cls, rest: str, settings: JudgeSettings, *, show_progress: bool) -> Self:
        """Return the comparator that users ask for by its name, or by its name, a colon and `rest`.

        Args:
            rest: What follows the colon; empty without one.
            settings: Settings of judges and comparators.
            show_progress: Whether to show a progress bar.

        Raises:
            ConfigError: The comparator takes nothing after its name, or not this.
        """
        if rest:
            raise ConfigError(f"comparator {cls.name}: takes nothing after its name, but got ':{rest}'; leave it out")
        return cls()

    @abstractmethod
    def prefer_all(self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> list[Preference]:
        """Return a preference for every prompt between its first and its second answer, in order."""


#: The comparators by name: those of this package, and those of the entry-point group `dualselect.comparators`.
COMPARATORS: Registry[type[Comparator]] = Registry(
    "comparator",
    modules=[f"{__package__}.{name}" for name in ("api", "judged")],
    check=subclass_of(Comparator, "is not a class of Comparator"),
)
#: Registers a comparator: the decorator `@comparator("mine")` makes a class what `--comparator mine` asks for.
comparator = COMPARATORS.register

"""Everything chosen by name (methods, judges, suites, corrections, triggers) is registered in one way.

A thing of this package is registered by the decorator of its kind. Another package names its own in the entry-point
group `dualselect.<kind>s`, such as `dualselect.judges`, and is found once it is installed.
"""

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from dualselect.errors import ConfigError, nearest

Thing = TypeVar("Thing")


def subclass_of(base: type, fault: str) -> Callable[[object], str]:
    """Return a check for a registry of classes.

    Args:
        base: Class that all of them derive from.
        fault: Message about a thing that does not.
    """
    return lambda thing: "" if isinstance(thing, type) and issubclass(thing, base) else fault


class Registry(Generic[Thing]):
    """The things of one kind by name, in the order in which they were registered.

    Args:
        kind: Word for one thing in messages, such as `judge`.
        modules: Modules of this package whose import registers the built-in ones; imported when a name is first asked
            for, so that a registry costs nothing before.
        check: Function that returns why a thing cannot be one of this kind, or an empty text.
        plural: Word for several things, which names the entry-point group.
    """

    def __init__(
        self,
        kind: str,
        modules: Sequence[str] = (),
        check: Callable[[object], str] = lambda thing: "",
        plural: str = "",
    ) -> None:
        self.kind = kind
        self.plural = plural or f"{kind}s"
        self.group = f"dualselect.{self.plural.replace(' ', '_')}"
        self._modules = modules
        self._check = check
        self._found: dict[str, Thing] = {}
        self._complete = False

    def register(self, name: str) -> Callable[[Thing], Thing]:
        """Return a decorator that registers what it decorates, and returns it unchanged.

        Raises:
            ConfigError: Another thing has the name, or it cannot be one of this kind.
        """

        def add(thing: Thing) -> Thing:
            self.add(name, thing)
            return thing

        return add

    def add(self, name: str, thing: Thing, place: str = "") -> None:
        """Register a thing under a name; registering the same one twice changes nothing.

        Args:
            name: Name by which users choose it.
            thing: Thing to register.
            place: Place of its declaration, for messages.

        Raises:
            ConfigError: Another thing has the name, or it cannot be one of this kind.
        """
        place = place or f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', name)}"
        if fault := self._check(thing):
            raise ConfigError(f"{self.kind} '{name}' {fault}: fix {place}")
        if self._found.setdefault(name, thing) is not thing:
            raise ConfigError(f"two {self.plural} are called '{name}': rename the one in {place}")

    def __getitem__(self, name: str) -> Thing:
        """Return the thing of that name.

        Raises:
            ConfigError: There is none; the nearest names are offered.
        """
        found = self._all()
        if name not in found:
            raise ConfigError(f"unknown {self.kind} '{name}'{nearest(str(name), found)}")
        return found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def items(self) -> list[tuple[str, Thing]]:
        """Return names and things."""
        return list(self._all().items())

    def _all(self) -> dict[str, Thing]:
        if not self._complete:
            self._complete = True  # before the imports, which may ask for a name themselves
            for module in self._modules:
                import_module(module)
            for entry in entry_points(group=self.group):
                self.add(entry.name, entry.load(), entry.value)
        return self._found

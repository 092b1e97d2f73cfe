"""Everything chosen by name (methods, judges, suites, corrections, triggers) is registered in one way.

A thing of this package registers itself by the decorator of its kind. Another package names its own in the entry-point
group `dualselect.<kind>s`, such as `dualselect.judges`, and is found once it is installed. One that cannot be loaded
stands in nobody's way: it is an error for those who ask for it, or for a list of all.
"""

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from dualselect.errors import ConfigError, nearest, one_line

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
        self._faults: dict[str, ConfigError] = {}  # of entry points, by name
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
            ConfigError: There is none, and the nearest names are offered; or its entry point cannot be used.
        """
        found = self._all()
        if name in self._faults:
            raise self._faults[name]
        if name not in found:
            others = f"; could not be loaded: {', '.join(self._faults)}" if self._faults else ""
            raise ConfigError(f"unknown {self.kind} '{name}'{nearest(str(name), found)}{others}")
        return found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._all() or name in self._faults

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, with those of entry points that cannot be used."""
        return iter(list(dict.fromkeys([*self._all(), *self._faults])))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def items(self) -> list[tuple[str, Thing]]:
        """Return names and things.

        Raises:
            ConfigError: An entry point cannot be used.
        """
        found = self._all()
        for fault in self._faults.values():
            raise fault
        return list(found.items())

    def _all(self) -> dict[str, Thing]:
        if not self._complete:
            self._complete = True  # before the imports, which may ask for a name themselves
            for module in self._modules:
                import_module(module)
            for entry in entry_points(group=self.group):
                try:
                    self.add(entry.name, self._load(entry), entry.value)
                except ConfigError as fault:
                    self._faults[entry.name] = fault
        return self._found

    def _load(self, entry: EntryPoint) -> Thing:
        try:
            thing: Thing = entry.load()
        except Exception as error:  # whatever another package does when it is imported
            package = entry.dist.name if entry.dist else entry.module
            raise ConfigError(
                f"{self.kind} '{entry.name}' of the package '{package}' could not be loaded from {entry.value}: "
                f"{type(error).__name__}: {one_line(error)}; update the package, or uninstall it"
            ) from error
        return thing

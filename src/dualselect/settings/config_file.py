"""Reading the YAML of a run: a flat mapping from settings to values, each with its place."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dualselect.errors import ConfigError, one_line, shortened

_MOST_NODES = 100_000  # of a file with its aliases written out


class Entry(NamedTuple):
    """A value and its place, as `file:line`."""

    value: Any
    place: str


class SafeYaml(yaml.SafeLoader):
    """PyYAML's SafeLoader without aliases of aliases that multiply to more than memory holds."""

    def get_single_node(self) -> Any:
        """Return the node of the document.

        Raises:
            yaml.constructor.ConstructorError: It is too large with its aliases written out.
        """
        root = super().get_single_node()
        if root is not None and _size(root, {}) > _MOST_NODES:
            raise yaml.constructor.ConstructorError(None, None, "its aliases repeat too much", root.start_mark)
        return root


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many nodes there are with all aliases written out; `known` has those of nodes seen before."""
    if id(node) not in known:
        known[id(node)] = 1  # for an alias of what contains it, which PyYAML refuses later
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] += sum(_size(part, known) for part in ([] if isinstance(node, yaml.ScalarNode) else parts))
    return known[id(node)]


@contextmanager
def yaml_errors(path: Path | str) -> Iterator[None]:
    """Turn what reading a YAML file raises into a ConfigError that names its place.

    Raises:
        ConfigError: The file could not be read, or is not YAML.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{shortened(path)}: cannot be read ({error.strerror or error}); name a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read, it is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = path if mark is None else f"{path}:{mark.line + 1}"
        raise ConfigError(f"{place}: not valid YAML: {error.problem}; fix the line") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply; write it with fewer levels") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        # PyYAML raises all of these for a value that does not fit its tag, as `!!int x`.
        raise ConfigError(f"{path}: not valid YAML: {one_line(error)}; fix the file") from error


class _Loader(SafeYaml):
    """Reads scalars as YAML 1.2 does: `no` and `off` are words (eval_strategy: no), and 1e-4 is a number."""


_KEPT = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _KEPT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf|\.nan)$"),
    "-+.0123456789",
)


def read_config(path: str) -> dict[str, Entry]:
    """Return the settings of a YAML file in their order, with hyphens in keys read as underscores.

    Raises:
        ConfigError: The file is missing, not YAML, not a mapping, or names a setting twice.
    """
    with yaml_errors(path):
        loader = _Loader(Path(path).read_text(encoding="utf-8"))
        try:
            return _entries(loader, path)
        finally:
            loader.dispose()


def _entries(loader: _Loader, path: str) -> dict[str, Entry]:
    root = loader.get_single_node()
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}: not a mapping; write one `setting: value` per line")
    loader.flatten_mapping(root)
    entries: dict[str, Entry] = {}
    for key_node, value_node in root.value:
        place = f"{path}:{key_node.start_mark.line + 1}"
        key = str(loader.construct_object(key_node)).replace("-", "_")
        if key in entries:
            raise ConfigError(f"{place}: '{key}' is set a second time; it is already set in {entries[key].place}")
        entries[key] = Entry(loader.construct_object(value_node, deep=True), place)
    return entries

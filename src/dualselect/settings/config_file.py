"""Reading the YAML of a run: a flat mapping from settings to values, each with its place."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dualselect.errors import ConfigError


class Entry(NamedTuple):
    """A value and its place, as `file:line`."""

    value: Any
    place: str


class _Loader(yaml.SafeLoader):
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
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: cannot be read ({error}); name a YAML file") from error
    loader = _Loader(text)
    try:
        return _entries(loader, path)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = path if mark is None else f"{path}:{mark.line + 1}"
        raise ConfigError(f"{place}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
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

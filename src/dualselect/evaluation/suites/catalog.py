"""Suites by name: those of `catalog.yaml`, those of other packages, and a user's own from a data or YAML file."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml

from dualselect.errors import ConfigError, nearest
from dualselect.evaluation.suites.base import Reader, Scoring, Suite
from dualselect.evaluation.suites.layouts import expected_number, harmbench, hex_phi, with_expected, xstest
from dualselect.evaluation.suites.readers import (
    answered,
    conversations,
    first_turns,
    labelled,
    multiple_choice,
    prompts,
)
from dualselect.registry import Registry
from dualselect.settings.config_file import SafeYaml, yaml_errors

_HERE = Path(__file__).parent
# The kinds that a suite may be declared of, and how they are usually scored.
_SCORINGS = {"safety": "judges", "overrefusal": "judges", "utility": "exact_match", "probe": "probe"}
_SAFE_MEASURES = ("safe_nll", "safe_kl", "refusal_log_odds")
_MEASURES = (*_SAFE_MEASURES, "task_nll")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_YAML = re.compile(r"(?P<path>.+\.ya?ml)(?::(?P<name>[^:/]+))?", re.IGNORECASE)
_DATA_FILES = (".jsonl", ".json", ".csv", ".parquet")


class SuiteRow(NamedTuple):
    """A line of the list of suites."""

    name: str
    kind: str
    title: str
    licence: str
    source: str


class _Suites(Registry[Suite]):
    """The suites; an entry point of another package names one, a list of them, or the path of a YAML file of them."""

    def add(self, name: str, thing: Any, place: str = "") -> None:
        if isinstance(thing, str | Path):
            found: Sequence[Any] = list(read_suites(thing).values())
        else:
            found = thing if isinstance(thing, list | tuple) else [thing]
        for suite in found:
            super().add(getattr(suite, "name", name), suite, place)


def get_suite(text: str) -> Suite:
    """Return a suite by its name, or the user's own that a text describes.

    Args:
        text: Name of a suite of the catalog; `name=source` or `kind:name=source` for prompts in a data file, a folder
            or a hub data set, of kind safety where none is given; or `file.yaml` or `file.yaml:name` for a suite that
            a YAML file declares.

    Raises:
        ConfigError: There is no such suite (the nearest names are offered), it cannot be declared so, or its data file
            does not exist.
    """
    if "=" in text:
        return _from_data(text)
    if (match := _YAML.fullmatch(text)) is None:
        if Path(text).suffix.lower() in _DATA_FILES:
            raise ConfigError(f"suite '{text}' is a file of data; give it a name, as mine={text}")
        return SUITES[text]
    declared = read_suites(match["path"])
    name = match["name"] or next(iter(declared))
    if name not in declared:
        raise ConfigError(f"{match['path']}: unknown suite '{name}'{nearest(name, declared)}")
    if match["name"] is None and len(declared) > 1:
        raise ConfigError(f"{text}: declares {', '.join(declared)}; choose one, as {text}:{name}")
    return _unlike_the_catalog(declared[name], match["path"])


def expand(text: str) -> tuple[str, ...]:
    """Return what `get_suite` takes for each suite of a YAML file; any other text as it is."""
    match = _YAML.fullmatch(text)
    if "=" in text or match is None or match["name"] is not None:
        return (text,)
    return tuple(f"{text}:{name}" for name in read_suites(text))


def read_suites(path: str | Path) -> dict[str, Suite]:
    """Return the suites that a YAML file declares by their names, in its order; `catalog.yaml` lists the keys.

    Raises:
        ConfigError: The file cannot be read, or a suite cannot be declared so; the message names file, suite and key.
    """
    file = Path(path).expanduser()
    return {str(name): _declared(str(name), entry, file) for name, entry in _mapping(file).items()}


def suite_rows() -> list[SuiteRow]:
    """Return a row for every suite, for a table: name, kind, title, licence and where its data come from."""
    return [SuiteRow(name, suite.kind, suite.title, suite.licence, _where(suite)) for name, suite in SUITES.items()]


def _where(suite: Suite) -> str:
    if suite.embedded is not None:
        return "built in"
    return suite.source or f"--data {suite.name}=PATH: {suite.advice}"


def _from_data(text: str) -> Suite:
    declared, _, source = text.partition("=")
    kind, colon, name = declared.rpartition(":")
    place = f"suite '{text}'"
    if not source.strip():
        raise ConfigError(f"{place}: names no data; write NAME=FILE, such as mine=prompts.jsonl")
    entry = {"source": source.strip(), **({"kind": kind} if colon else {})}
    suite = _suite(name, entry, place, Path())
    if suite.source and Path(suite.source).suffix.lower() in _DATA_FILES and not Path(suite.source).exists():
        raise ConfigError(f"{place}: {suite.source}: no such file; check the path")
    return _unlike_the_catalog(suite, place)


def _unlike_the_catalog(suite: Suite, place: str) -> Suite:
    """Return the suite, unless it has the name of another, whose results could be taken for its own."""
    if suite.name in SUITES:
        raise ConfigError(
            f"{place}: '{suite.name}' is a suite of the catalog; give yours another name, or replace the data of that "
            f"one with --data {suite.name}=PATH"
        )
    return suite


class _Loader(SafeYaml):
    """Refuses keys that are given twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in keys:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is given twice", key.start_mark)
            keys.add(str(key.value))
        return super().construct_mapping(node, deep)


def _mapping(path: Path) -> dict[Any, Any]:
    cure = "write `NAME:` and its keys, such as `source: prompts.jsonl`, below it"
    with yaml_errors(path):
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path}: contains no suites by name; {cure}")
    return content


def _declared(name: str, entry: Any, file: Path) -> Suite:
    place = f"{file}: suite '{name}'"
    if not isinstance(entry, dict):
        hint = f" (write the name of the suite above '{name}')" if name in _KEYS else ""
        raise ConfigError(f"{place}: is not a mapping; write its keys, such as `source: prompts.jsonl`, below it{hint}")
    return _suite(name, entry, place, file.parent)


def _suite(name: str, entry: Mapping[Any, Any], place: str, folder: Path) -> Suite:
    """Return the suite of an entry; paths in it are relative to `folder`."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{place}: the name '{name}' is not made of letters, digits, - and _; rename it")
    known = _KEYS if folder == _HERE else {key: check for key, check in _KEYS.items() if key != "embedded"}
    fields = {key: _value(key, value, known, place) for key, value in entry.items()}
    if sum(key in fields for key in ("source", "embedded", "advice")) != 1:
        raise ConfigError(
            f"{place}: needs either source or advice; write `source: prompts.jsonl`, or `advice: ...` where the data "
            f"are given by --data {name}=PATH"
        )
    kind = fields.setdefault("kind", "safety")
    scoring = fields.setdefault("scoring", _SCORINGS[kind])
    if (kind == "probe") != (scoring == "probe"):
        raise ConfigError(f"{place}: scoring is {scoring}, and kind {kind}; give `probe` for both, or for neither")
    if scoring == "probe":
        fields.setdefault("measures", _SAFE_MEASURES)
    if "source" in fields:
        fields["source"] = _source(fields["source"], folder)
    reader = _reader(fields.pop("reader", _SCORED_BY[scoring]), fields.get("labels", ()), place)
    return Suite(**{"name": name, "title": name, "reader": reader, **fields})


def _source(source: str, folder: Path) -> str:
    """Return a path relative to the working directory, or the hub id."""
    path = Path(source).expanduser()
    is_path = (folder / path).exists() or path.suffix.lower() in _DATA_FILES or source.startswith((".", "~"))
    return str(folder / path) if is_path else source


def _value(key: Any, value: Any, known: Mapping[str, Callable[[Any, str], Any]], place: str) -> Any:
    check = known.get(key)
    if check is None:
        raise ConfigError(f"{place}: unknown key '{key}'{nearest(str(key), known)}")
    return check(value, f"{place}: {key}")


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{place} is {value!r}; give text, in quotes where YAML would take it for something else")
    return value


def _texts(value: Any, place: str) -> tuple[str, ...]:
    return tuple(_text(item, place) for item in (value if isinstance(value, list) else [value]))


def _count(value: Any, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{place} is {value!r}; give a whole number of at least 1")
    return value


def _truth(value: Any, place: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{place} is {value!r}; give true or false")
    return value


def _one_of(known: Sequence[str]) -> Callable[[Any, str], str]:
    def check(value: Any, place: str) -> str:
        if value not in known:
            raise ConfigError(f"{place} is {value!r}{nearest(str(value), known)}")
        return str(value)

    return check


def _measures(value: Any, place: str) -> tuple[str, ...]:
    check = _one_of(_MEASURES)
    return tuple(check(name, place) for name in _texts(value, place))


def _any(value: Any, place: str) -> Any:
    return value


#: Keys of a declaration, and the function that makes a value of each or says what is wrong.
_KEYS: dict[str, Callable[[Any, str], Any]] = {
    "kind": _one_of(tuple(_SCORINGS)),
    "title": _text,
    "scoring": _one_of(get_args(Scoring)),
    "reader": _any,
    "source": _text,
    "embedded": _text,  # a file of this package
    "advice": _text,
    "split": _text,
    "labels": _texts,
    "measures": _measures,
    "id_field": _text,
    "has_header": _truth,
    "max_new_tokens": _count,
    "licence": _text,
    "citation": _text,
}

# Defaults by kind, and the reader for each way of scoring.
_SCORINGS = {"safety": "judges", "overrefusal": "judges", "utility": "exact_match", "probe": "probe"}
_SCORED_BY = {
    "judges": "prompts",
    "win_rate": "prompts",
    "exact_match": "number_problem",
    "multiple_choice": "multiple_choice",
    "classification": "labelled",
    "probe": "answered",
}


def _read_prompts(fields: Any = (), category: Any = "category", context: Any = ()) -> Reader:
    return with_expected(prompts(*_several(fields), category=_several(category), context=_several(context)))


def _several(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(map(str, names))


#: Readers by name: each makes a reader of its options.
_READERS: dict[str, Callable[..., Reader]] = {
    "prompts": _read_prompts,
    "first_turns": lambda fields: first_turns(*_several(fields)),
    "conversations": lambda: conversations,
    "number_problem": lambda: expected_number,
    "answered": lambda: answered,
    "multiple_choice": lambda: multiple_choice,
    "labelled": lambda labels=(): labelled(labels),
    "hex_phi": lambda: hex_phi,
    "harmbench": harmbench,
    "xstest": xstest,
}


def _reader(value: Any, labels: tuple[str, ...], place: str) -> Reader:
    options = dict(value) if isinstance(value, dict) else {"name": value}
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in _READERS:
        raise ConfigError(f"{place}: unknown reader '{name}'{nearest(str(name), _READERS)}")
    make = _READERS[name]
    known = inspect.signature(make).parameters
    for option, given in options.items():
        if option in known:
            _texts(given, f"{place}: reader: {option}")
        else:
            hint = nearest(str(option), known) or "; it takes none"
            raise ConfigError(f"{place}: reader '{name}' has no option '{option}'{hint}")
    if name == "labelled":
        options.setdefault("labels", labels)
    missing = [option for option, spec in known.items() if spec.default is spec.empty and option not in options]
    if missing:
        raise ConfigError(f"{place}: reader '{name}' needs {missing[0]}; write {{name: {name}, {missing[0]}: ...}}")
    return make(**options)


SUITES = _Suites("suite")
SUITES.add("catalog", _HERE / "catalog.yaml")

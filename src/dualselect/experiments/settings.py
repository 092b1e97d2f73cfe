"""The settings of a run from a YAML file and flags: every field of four dataclasses is both a key and a flag.

The file wins over defaults, flags over the file. The four are `DualSelectConfig` (TRL's SFTConfig and ours),
`ModelArguments`, `DataArguments` and the options of the chosen method.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from dualselect import methods
from dualselect.errors import ConfigError, one_line
from dualselect.experiments.arguments import DataArguments, ModelArguments
from dualselect.experiments.run_flags import add_run_flags, print_run_settings, run_parser
from dualselect.methods import Method
from dualselect.settings.config_file import Entry, read_config
from dualselect.settings.parser import CommandParser, near_or_help, share_of, unknown_argument
from dualselect.training import DualSelectConfig

DEFAULT_OUTPUT = "runs/train"


@dataclass(frozen=True)
class Settings:
    """Everything that a run is made from, checked as far as possible without loading anything."""

    training: DualSelectConfig
    method: Method
    model: ModelArguments
    data: DataArguments
    resume: bool


def parse_settings(argv: Sequence[str], command: str = "train", about: str = "") -> Settings:
    """Return the settings that a command line and the file it names give; `--help` prints and exits.

    Raises:
        ConfigError: An unknown, malformed or impossible setting, or an unreadable file.
    """
    first = CommandParser(command, add_help=False)
    add_run_flags(first)
    namespace, flags = first.parse_known_args(argv)
    given = vars(namespace)
    entries = flattened(read_config(given["config"])) if "config" in given else {}
    in_file = entries.pop("method", Entry(DualSelectConfig.method, "")).value
    method = methods.get(given.get("method", str(in_file)))
    parser = run_parser(method, command, about)
    if "help" in given or "help_all" in given:
        print_run_settings(parser, full="help_all" in given)
        raise SystemExit(0)
    # Options of a method that a flag replaced do not apply to the new one, unless it has them too.
    ignorable = options_of(str(in_file)) if "method" in given else set()
    values: dict[str, Any] = {}
    for name, entry in entries.items():
        if parser.knows(name):
            values |= parser.parse_value(name, entry)
        elif name not in ignorable:
            raise ConfigError(f"{entry.place}: unknown setting '{name}'{setting_hint(name, method, parser)}")
    from_flags, rest = parser.parse_known_args(flags)
    if rest:
        raise _unknown_flag(rest[0], method, parser)
    return build_settings(method, values | vars(from_flags), resume="resume" in given)


def flattened(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Return the entries, with those of a mapping `method_options` among them."""
    nested = entries.pop("method_options", None)
    if nested is None or nested.value is None:
        return entries
    if not isinstance(nested.value, dict):
        raise ConfigError(f"{nested.place}: method_options is not a mapping; write `option: value` lines below it")
    return entries | {str(name): Entry(value, nested.place) for name, value in nested.value.items()}


def options_of(method: str) -> set[str]:
    """Return the names of a method's options."""
    return {option.name for option in fields(methods.get(method))}


def _unknown_flag(flag: str, method: type[Method], parser: CommandParser) -> ConfigError:
    if not flag.startswith("--"):
        return unknown_argument(flag, (), f"{parser.prog} --help")
    flag = flag.split("=")[0]
    return ConfigError(f"unknown option '{flag}'{setting_hint(flag, method, parser)}")


def setting_hint(name: str, method: type[Method], parser: CommandParser) -> str:
    """Return which methods have an option that this one lacks, or else the nearest names."""
    bare = name.lstrip("-").replace("-", "_")
    having = [other for other in methods.available() if bare in options_of(other)]
    if having:
        return f": method '{method.name}' has no such option; leave it out or choose method {' or '.join(having)}"
    style = "--" if name.startswith("--") else ""
    names = [style + flag.lstrip("-") for flag in parser.flags]
    return near_or_help(name, names, f"{parser.prog} --help-all")


def build_settings(method: type[Method], values: dict[str, Any], *, resume: bool) -> Settings:
    """Return the settings made from plain values.

    Raises:
        ConfigError: A value is impossible, or values do not go together.
    """
    options = share_of(method, values)
    training = share_of(DualSelectConfig, values)
    training["output_dir"] = training.get("output_dir") or DEFAULT_OUTPUT
    try:
        return Settings(
            training=DualSelectConfig(**training, method=method.name, method_options=options),
            method=method.from_options(options),
            model=ModelArguments(**share_of(ModelArguments, values)),
            data=DataArguments(**share_of(DataArguments, values)),
            resume=resume,
        )
    except (ValueError, TypeError, ImportError) as error:
        # Raised by TRL and transformers for settings that do not go together.
        raise ConfigError(one_line(error)) from error

"""Flags for the settings of a run, made from dataclasses by TRL's parser, in groups that a help page can show."""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import MISSING, Field, field, fields, make_dataclass
from typing import Any, NoReturn, get_args, get_type_hints

from trl import TrlParser

from dualselect.errors import ConfigError
from dualselect.methods import Method
from dualselect.settings.arguments import DataArguments, ModelArguments
from dualselect.settings.config_file import Entry
from dualselect.training import DualSelectConfig

# What most runs set; `--help-all` shows the rest.
_LOSSES = ("loss_average", "prompt_overlap")
_TRAINING = (
    "output_dir",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "max_grad_norm",
    "max_length",
    "completion_only_loss",
    "bf16",
    "gradient_checkpointing",
    "eval_on_start",
    "eval_strategy",
    "eval_steps",
    "per_device_eval_batch_size",
    "logging_steps",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "report_to",
    "run_name",
    "seed",
)
_MODEL = (
    "model_name_or_path",
    "model_revision",
    "dtype",
    "attn_implementation",
    "use_peft",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
)
_ELSEWHERE = ("method", "method_options")  # known before this parser can be made
_TYPE_NAMES = {"str": "TEXT", "string_to_bool": "BOOL", "loads": "JSON"}
_EPILOG = """Every flag is also a key of the YAML file, and flags go before the file. A switch may stand alone
(--bf16), take a value (--bf16 false) or, where it is on, be turned off as --no_NAME. Hyphens may stand for
underscores."""


class SettingsParser(TrlParser):
    """A flag for every setting of a run by `method`; what is not given is absent from the parsed namespace."""

    def __init__(self, method: type[Method], command: str, about: str) -> None:
        title = f"options of method '{method.name}' (--method NAME --help shows another's)"
        shown = [
            _flags_of(method, title),
            _flags_of(DataArguments, "data"),
            _flags_of(ModelArguments, "model and LoRA", only=_MODEL),
            _flags_of(DualSelectConfig, "losses and references", only=_LOSSES),
            _flags_of(DualSelectConfig, "training", only=_TRAINING),
        ]
        rare = [
            _flags_of(ModelArguments, "more about the model", but=_MODEL),
            _flags_of(DualSelectConfig, "more about training", but=_LOSSES + _TRAINING + _ELSEWHERE),
        ]
        # Before TRL's parser sees the fields, since it strips None from their types.
        settings = [option for group in (*shown, *rare) for option in fields(group)]
        _refuse_collisions(method, settings)
        may_be_none = {option.name for option in settings if type(None) in get_args(option.type)}
        super().__init__(
            [*shown, *rare],
            prog=f"dualselect {command}",
            usage=f"dualselect {command} --config FILE [--SETTING VALUE ...]",
            description=about,
            epilog=_EPILOG,
            formatter_class=_HelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        self._rare = {option.name for group in rare for option in fields(group)}
        self._may_be_none = may_be_none
        self._defaults_shown = {action: action.default for action in self._actions}
        for action in self._actions:
            action.default = argparse.SUPPRESS
            kind = getattr(action.type, "__name__", "")
            if kind == "dict":
                action.type = json.loads
            elif kind == "string_to_bool" and action.nargs is None:
                action.nargs, action.const = "?", True  # switches that may be unset stand alone too

    @property
    def flags(self) -> list[str]:
        """All flags, spelled with underscores."""
        return [flag for flag in self._option_string_actions if "-" not in flag[2:]]

    def knows(self, name: str) -> bool:
        """Return whether a file may set `name`."""
        return f"--{name}" in self._option_string_actions

    def parse_value(self, name: str, entry: Entry) -> dict[str, Any]:
        """Return a setting's name and value, read from a file as strictly as from a flag.

        Raises:
            ConfigError: The value has the wrong type or is none of the setting's choices.
        """
        action = self._option_string_actions[f"--{name}"]
        value = entry.value
        if value is None:
            if action.dest not in self._may_be_none:
                raise ConfigError(f"{entry.place}: '{name}' has no value; give one or leave the line out")
            return {action.dest: None}
        if value == [] or isinstance(value, dict) or (isinstance(value, list) and action.nargs != "+"):
            return {action.dest: value}
        words = [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
        try:
            return vars(self.parse_known_args(words)[0])
        except ConfigError as error:
            raise ConfigError(f"{entry.place}: {error}") from error

    def print_settings(self, *, full: bool) -> None:
        """Print the help page, with the rarely needed settings only if `full`. The parser can't parse afterwards."""
        for action, default in self._defaults_shown.items():
            action.default = "unset" if default is None else default
            action.option_strings = [flag for flag in action.option_strings if "-" not in flag[2:]]
            turns_off = action.option_strings[0].startswith("--no_")
            if turns_off or (action.dest in self._rare and not full):
                action.help = argparse.SUPPRESS
            elif not action.choices:
                name = getattr(action.type, "__name__", "value")
                action.metavar = _TYPE_NAMES.get(name, name.upper())
        group = self.add_argument_group("run")
        add_run_flags(group)
        self._action_groups.insert(0, self._action_groups.pop())
        self.print_help()

    def error(self, message: str) -> NoReturn:
        """Raise a ConfigError with argparse's message, which names each flag in two spellings."""
        raise ConfigError(re.sub(r"^argument (--\w+)(/--[\w-]+)*", r"\1", message))


def _refuse_collisions(method: type[Method], settings: "Iterable[Field[Any]]") -> None:
    """Refuse a method one of whose options is called like a setting of every run."""
    counts = Counter(option.name for option in settings)
    for option in fields(method):
        if counts[option.name] > 1:
            raise ConfigError(
                f"method '{method.name}' has an option '{option.name}', which is a setting of every run; rename it in "
                "the method"
            )


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


def add_run_flags(parser: Any) -> None:
    """Add the flags that are read before all settings."""
    unset = argparse.SUPPRESS
    parser.add_argument("--config", metavar="FILE", default=unset, help="YAML file of settings")
    parser.add_argument("--method", metavar="NAME", default=unset, help="how to fine-tune; `dualselect methods` lists")
    parser.add_argument(
        "--resume",
        action="store_true",
        default=unset,
        help="continue from output_dir's last whole checkpoint, if there is one",
    )
    parser.add_argument("-h", "--help", action="store_true", default=unset, help="show what most runs set")
    parser.add_argument("--help-all", action="store_true", default=unset, help="show every setting")


def _flags_of(owner: type, title: str, only: Iterable[str] = (), but: Iterable[str] = ()) -> type:
    """Return a dataclass with some fields of `owner`, from which TRL's parser makes one group of flags."""
    only, but, types = tuple(only), tuple(but), get_type_hints(owner)
    chosen = []
    for option in fields(owner):
        if not option.init or option.name in but or (only and option.name not in only):
            continue
        metadata = {name: option.metadata[name] for name in ("help", "choices", "aliases") if name in option.metadata}
        # argparse fills help texts by the % operator.
        metadata["help"] = re.sub(r"(?<!%)%(?![%(])", "%%", metadata.get("help", ""))
        if option.default_factory is not MISSING:
            same = field(default_factory=option.default_factory, metadata=metadata)
        else:
            same = field(default=None if option.default is MISSING else option.default, metadata=metadata)
        chosen.append((option.name, types[option.name], same))
    if only:
        chosen.sort(key=lambda item: only.index(item[0]))
    return make_dataclass(owner.__name__, chosen, namespace={"_argument_group_name": title})

"""The flags of a run: a group for each of the dataclasses that its settings are made of."""

import argparse
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from dualselect.errors import ConfigError
from dualselect.experiments.arguments import DataArguments, ModelArguments
from dualselect.methods import Method
from dualselect.settings.parser import CommandParser
from dualselect.training import DualSelectConfig

# Common settings; `--help-all` shows the rest.
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
MODEL_SETTINGS = (
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
_EPILOG = """Every flag is also a key of the YAML file, and flags win over the file. A switch may be given alone
(--bf16), take a value (--bf16 false) or, where it is on, be turned off as --no_NAME. Hyphens may replace
underscores."""


def run_parser(method: type[Method], command: str, about: str) -> CommandParser:
    """Return a parser with a flag for every setting of a run by a method.

    Raises:
        ConfigError: The method has an option with the name of a setting of every run.
    """
    _refuse_collisions(method)
    parser = CommandParser(
        command,
        about,
        usage=f"dualselect {command} --config FILE [--SETTING VALUE ...]",
        epilog=_EPILOG,
        add_help=False,
    )
    parser.add_settings(method, f"options of method '{method.name}' (--method NAME --help shows another's)")
    parser.add_settings(DataArguments, "data")
    parser.add_settings(ModelArguments, "model and LoRA", only=MODEL_SETTINGS)
    parser.add_settings(DualSelectConfig, "losses and references", only=_LOSSES)
    parser.add_settings(DualSelectConfig, "training", only=_TRAINING)
    parser.add_settings(ModelArguments, "more about the model", but=MODEL_SETTINGS, is_rare=True)
    rest = (*_LOSSES, *_TRAINING, *_ELSEWHERE)
    parser.add_settings(DualSelectConfig, "more about training", but=rest, is_rare=True)
    return parser


def print_run_settings(parser: CommandParser, *, full: bool) -> None:
    """Print the help page of a run's parser, which cannot parse afterwards, with the rare settings if `full`."""
    add_run_flags(parser.add_argument_group("run"))
    parser._action_groups.insert(0, parser._action_groups.pop())
    parser.print_settings(full=full)


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
    parser.add_argument("-h", "--help", action="store_true", default=unset, help="show common settings")
    parser.add_argument("--help-all", action="store_true", default=unset, help="show every setting")


def _refuse_collisions(method: type[Method]) -> None:
    owners: Iterable[type] = (DataArguments, ModelArguments, DualSelectConfig)
    taken = {option.name for owner in owners for option in fields(owner)}
    for option in fields(method):
        if option.name in taken:
            raise ConfigError(
                f"method '{method.name}' has an option '{option.name}', which is a setting of every run; rename it in "
                "the method"
            )

"""Errors of a chat template on a data set: the record that it refuses, or that there is no template."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from jinja2 import TemplateError
from transformers.utils import logging

from dualselect.data.templates import pinned, reads_clock
from dualselect.errors import ConfigError, DataError, one_line
from dualselect.runs.provenance import CONFIG_FILE
from dualselect.training.config import DualSelectConfig

_logger = logging.get_logger(__name__)

# A template raises these itself, or fails with them on a value of another type, such as content in parts.
_REFUSALS = (TemplateError, ValueError, TypeError)


def pin_date(trainer: Any, tokenizer: Any, args: DualSelectConfig) -> None:
    """Let a chat template that writes today's date write the date of the run's start, also when the run is resumed.

    The date is `args.template_date`, else that of the run in `args.output_dir`, else now. The tokenizer itself, and so
    the one that is saved, keeps its template.

    Args:
        trainer: `SFTTrainer`, which renders by its own `chat_template` where it has one.
        tokenizer: Tokenizer or processor with the chat template.
        args: Settings of the run, into which the date is written.
    """
    template = trainer.chat_template or getattr(tokenizer, "chat_template", None)
    if not reads_clock(template):
        return
    if args.template_date is None:
        args.template_date = _date_of_run(Path(args.output_dir)) or datetime.now().isoformat(timespec="seconds")
    trainer.chat_template = pinned(template, datetime.fromisoformat(args.template_date))
    _logger.warning_once(
        f"the chat template asks for today's date: all samples are rendered as on {args.template_date} (template_date)"
    )
    if reads_clock(trainer.chat_template):
        _logger.warning_once(
            "the chat template computes the format of its date, so it could not be fixed: a run that is resumed on "
            "another day renders other samples; give another template with chat_template_path"
        )


def _date_of_run(folder: Path) -> str | None:
    config = folder / CONFIG_FILE
    if not config.is_file():
        return None
    settings = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    date: str | None = settings.get("template_date")
    return date


@contextmanager
def template_errors(dataset: Dataset, tokenizer: Any, role: str) -> Iterator[None]:
    """Name the record that the chat template refuses while a whole data set is rendered.

    Records are tried one by one after rendering has failed.

    Args:
        dataset: Data set that is rendered; a column `id` names its samples, else they are numbered from 1.
        tokenizer: Tokenizer or processor with the chat template.
        role: Role of the data set in the message.

    Raises:
        ConfigError: The tokenizer has no chat template.
        DataError: The template refuses a record.
    """
    try:
        yield
    except _REFUSALS as error:
        if getattr(tokenizer, "chat_template", None) is None and "chat_template" in str(error):
            raise ConfigError(
                f"{role}: the model '{tokenizer.name_or_path}' has no chat template, like most base models; use "
                "its instruction-tuned sibling, or give a template with chat_template_path"
            ) from error
        for number, record in enumerate(dataset, start=1):
            cause = _refusal(record, tokenizer)
            if cause is not None:
                name = str(number) if record.get("id") is None else f"'{record['id']}'"
                raise DataError(
                    f"{role}: the model's chat template refuses sample {name}: {cause}; change its turns, or "
                    "give a template that accepts them (chat_template_path)"
                ) from error
        raise


def _refusal(record: Mapping[str, Any], tokenizer: Any) -> str | None:
    """Return the template's error on a record, or None."""
    options = {"tools": record.get("tools"), **(record.get("chat_template_kwargs") or {})}
    try:
        for messages, is_prompt in _conversations(record):
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_prompt, **options)
    except _REFUSALS as error:
        return one_line(error).rstrip(".")
    return None


def _conversations(record: Mapping[str, Any]) -> Iterator[tuple[list[Any], bool]]:
    """Yield the parts of a record that are rendered, each with whether an answer follows."""
    messages, prompt, completion = (record.get(name) for name in ("messages", "prompt", "completion"))
    if isinstance(messages, list):
        yield messages, False
    if isinstance(prompt, list):
        yield prompt, True
        if isinstance(completion, list):
            yield prompt + completion, False

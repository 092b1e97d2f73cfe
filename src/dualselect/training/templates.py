"""What a chat template says against a data set: the record that it refuses, or that there is no template."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from datasets import Dataset
from jinja2 import TemplateError

from dualselect.errors import ConfigError, DataError, one_line


@contextmanager
def template_errors(dataset: Dataset, tokenizer: Any, role: str) -> Iterator[None]:
    """Name the record that the chat template refuses while a whole data set is rendered.

    Records are tried one by one, once rendering has failed.

    Args:
        dataset: Data set that is rendered; a column `id` names its samples, else they are numbered from 1.
        tokenizer: Tokenizer or processor with the chat template.
        role: What the data set is for, as the message names it.

    Raises:
        ConfigError: The tokenizer has no chat template.
        DataError: The template refuses a record.
    """
    try:
        yield
    except (TemplateError, ValueError) as error:
        if getattr(tokenizer, "chat_template", None) is None and "chat_template" in str(error):
            raise ConfigError(
                f"{role}: the model '{tokenizer.name_or_path}' has no chat template, like most base models; take "
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
    """Return what the template says against a record, or None."""
    options = {"tools": record.get("tools"), **(record.get("chat_template_kwargs") or {})}
    try:
        for messages, is_prompt in _conversations(record):
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_prompt, **options)
    except (TemplateError, ValueError) as error:
        return one_line(error).rstrip(".")
    return None


def _conversations(record: Mapping[str, Any]) -> Iterator[tuple[list[Any], bool]]:
    """Yield what is rendered of a record, each with whether an answer is to follow."""
    messages, prompt, completion = (record.get(name) for name in ("messages", "prompt", "completion"))
    if isinstance(messages, list):
        yield messages, False
    if isinstance(prompt, list):
        yield prompt, True
        if isinstance(completion, list):
            yield prompt + completion, False

"""PTST: tune without a safety prompt, answer with one."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset

from dualselect.errors import ConfigError, one_line
from dualselect.methods.base import Method, Run
from dualselect.methods.registry import method
from dualselect.options import option

SAFETY_PROMPT = (
    "You are a helpful assistant. Answer as well as you can, but decline every request whose answer could harm "
    "someone, and say briefly why."
)
_QUESTION = [{"role": "user", "content": "?"}]


@method
@dataclass
class PTST(Method):
    """Train plainly, without a safety prompt; the saved chat template then puts one before every conversation.

    "Keeping LLMs Aligned After Fine-tuning: The Crucial Role of Prompt Templates", arXiv 2402.18540 (pure tuning, safe
    testing). The weights are those of plain SFT. A conversation with a system message of its own keeps that.
    """

    name: ClassVar[str] = "ptst"
    stage: ClassVar[str] = "after"
    cost: ClassVar[str] = "1"
    fidelity: ClassVar[str] = "variant; the model's own template with a safety prompt of our own wording"

    safety_prompt: str = option(SAFETY_PROMPT, "System message of every conversation that has none.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.safety_prompt.strip():
            raise ConfigError("safety_prompt is empty; give a text, or train with method 'sft'")

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Check that the chat template can write the prompt but does not yet, before a run is spent on it."""
        self._template(run.tokenizer)
        if self.safety_prompt.strip() in _rendered(run.tokenizer, _QUESTION, run.tokenizer.chat_template):
            raise ConfigError(
                "ptst: the chat template writes the safety prompt already, as an earlier run by ptst leaves it, so the "
                "model would be trained with it; name the first model's folder or hub id as chat_template_path"
            )
        return task

    def finish(self, run: Run) -> None:
        """Let the tokenizer that is saved write the prompt."""
        run.tokenizer.chat_template = self._template(run.tokenizer)

    def _template(self, tokenizer: Any) -> Any:
        """Return the tokenizer's chat template, or its table of templates by name, with the prompt.

        Raises:
            ConfigError: It has none, or its template takes no system message.
        """
        known = getattr(tokenizer, "chat_template", None)
        if known is None:
            raise ConfigError("ptst: the tokenizer has no chat template; fine-tune an instruction-tuned model")
        template = (
            {name: self._prompted(text) for name, text in known.items()}
            if isinstance(known, dict)
            else self._prompted(known)
        )
        system = [{"role": "system", "content": self.safety_prompt}]
        try:
            expected = _rendered(tokenizer, system + _QUESTION, known)
            found = _rendered(tokenizer, _QUESTION, template)
        except Exception as error:  # whatever a template raises
            raise ConfigError(
                f"ptst: the chat template takes no system message ({one_line(error)}); choose another method or model"
            ) from error
        if found != expected or self.safety_prompt.strip() not in found:
            raise ConfigError("ptst: the chat template does not write a system message; choose another method or model")
        return template

    def _prompted(self, template: str) -> str:
        """Return a chat template that begins with the prompt where a conversation has no system message."""
        system = "[{'role': 'system', 'content': " + json.dumps(self.safety_prompt, ensure_ascii=False) + "}]"
        condition = "{%- if messages and messages[0]['role'] != 'system' %}"
        return condition + "{%- set messages = " + system + " + messages | list %}{%- endif %}" + template


def _rendered(tokenizer: Any, messages: list[dict[str, str]], template: Any) -> str:
    text = template.get("default", next(iter(template.values()))) if isinstance(template, dict) else template
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, chat_template=text))

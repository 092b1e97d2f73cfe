"""What a family of guard models is: how it is asked, how its reply is read, and which models belong to it.

A family reads either the text that its model writes (`TextGuard`) or how likely its model is to start with Yes or No
(`YesNoGuard`). A reply that does not follow the family's published format gives no verdict.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dualselect.errors import ConfigError
from dualselect.runs.results import Verdict

#: Length of what is kept as evidence of a reply that could not be read.
EVIDENCE_CHARACTERS = 300


class GuardFamily(ABC):
    """How the models of one family are asked.

    Attributes:
        name: Name of the family, as in the spec `guard:FAMILY=MODEL`.
        version: Version of prompt and parser; changes with them.
        models: Pattern of the model ids of the family.
        auto_class: Class of transformers that loads its models.
        three_way: Whether it may say `controversial` too.
    """

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    models: ClassVar[str]
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    three_way: ClassVar[bool] = False

    @abstractmethod
    def prompts(self, tokenizer: Any, prompt: str, answer: str) -> list[str]:
        """Return the texts, begin token included, whose continuations decide on `answer` to `prompt`."""

    def takes(self, model_id: str) -> bool:
        """Return whether a model of this id belongs to the family."""
        return re.search(self.models, model_id, re.IGNORECASE) is not None


class TextGuard(GuardFamily):
    """A family whose verdict is written out.

    Attributes:
        max_new_tokens: Length of the longest reply in its format, in tokens.
    """

    max_new_tokens: ClassVar[int] = 32

    @abstractmethod
    def parse(self, said: str) -> Verdict:
        """Return the verdict in what the model wrote; none, with the reply as evidence, where its form is unknown."""


class YesNoGuard(GuardFamily):
    """A family whose verdict is the probability that its reply starts with Yes, to one question or more."""

    @abstractmethod
    def questions(self) -> Sequence[str]:
        """Return a name for each of the prompts."""

    @abstractmethod
    def reply_tokens(self, tokenizer: Any) -> tuple[list[int], list[int]]:
        """Return the ids of the tokens that mean yes and of those that mean no."""

    def decide(self, yes: Sequence[float], no: Sequence[float]) -> Verdict:
        """Return the verdict: unsafe where the answer to any question is more likely yes than no.

        Its score is the largest P(yes) / (P(yes) + P(no)). A model that would most likely say something else to any
        of the questions gives no verdict.

        Args:
            yes: P(yes) by question, over the whole vocabulary.
            no: P(no) likewise.
        """
        pairs = list(zip(self.questions(), yes, no, strict=True))
        for question, p_yes, p_no in pairs:
            if not p_yes + p_no >= 0.5:  # NaN too
                return Verdict(None, f"{question}: P(yes) = {p_yes:.3f} and P(no) = {p_no:.3f}, something else instead")
        shares = {question: p_yes / (p_yes + p_no) for question, p_yes, p_no in pairs}
        worst = max(shares, key=lambda question: shares[question])
        label = "unsafe" if shares[worst] > 0.5 else "safe"
        return Verdict(label, f"{worst}: {shares[worst]:.3f}", shares[worst])


def render(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **extras: Any) -> str:
    """Return messages by the tokenizer's chat template, ready for a reply.

    Raises:
        ConfigError: The tokenizer has no template, or the template does not take these messages.
    """
    name = getattr(tokenizer, "name_or_path", "") or "the guard model"
    if tokenizer.chat_template is None:
        raise ConfigError(f"{name}: its tokenizer has no chat template; use the files of the published model")
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **extras)
    except TemplateError as error:
        raise ConfigError(
            f"{name}: its chat template does not take a request and an answer ({error}); name its family, as in "
            "guard:FAMILY=MODEL"
        ) from error
    return str(text)


def turns(prompt: str, answer: str) -> list[dict[str, Any]]:
    """Return request and answer as messages."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def unreadable(said: str) -> Verdict:
    """Return no verdict, with the reply as evidence."""
    return Verdict(None, f"unreadable: {said[:EVIDENCE_CHARACTERS]!r}")

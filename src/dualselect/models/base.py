"""What can be evaluated: anything that answers prompts and can say exactly what it is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dualselect.models.generation import Prompt


@dataclass(frozen=True)
class GenerationSettings:
    """How answers are generated; all of it is part of an answer's identity but the batch size.

    Attributes:
        max_new_tokens: longest answer, in tokens.
        temperature: 0 is greedy.
        top_p: share of the probability mass to sample from, for a temperature above 0.
        seed: of sampling, for a temperature above 0.
        system: system prompt put before every prompt; None for none.
        batch_size: prompts at once; halved where memory does not suffice.
        thinking: Whether a model that can think does; None leaves it to the model's chat template.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    system: str | None = None
    batch_size: int = 16
    thinking: bool | None = None


class Target(ABC):
    """A model that is evaluated.

    Attributes:
        name: what tables call it.
        identity: what tells it from any other: `name`, `hash` (of the weights, where they are at hand) and the like.
    """

    name: str
    identity: dict[str, Any]

    @abstractmethod
    def generate(
        self, prompts: Sequence[Prompt], settings: GenerationSettings, *, description: str = "generating"
    ) -> list[str]:
        """Return one answer per prompt, in order, with its thoughts if the model thinks; shows a progress bar."""

    def opens_thought(self, settings: GenerationSettings) -> bool:
        """Return whether answers begin within a thought, opened by the prompt; no, where that cannot be known."""
        return False


class LocalTarget(Target):
    """A target whose model is in memory, so that likelihoods can be asked for as well.

    Attributes:
        model: a causal language model of transformers or PEFT.
        tokenizer: its tokenizer.
    """

    model: Any
    tokenizer: Any

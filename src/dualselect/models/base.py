"""What can be evaluated: anything that answers prompts and identifies itself exactly."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dualselect.models.generation import Prompt
from dualselect.models.thoughts import Answer
from dualselect.options import documented, option


@documented
@dataclass(frozen=True)
class GenerationSettings:
    """Settings of generation; all but the batch size are part of an answer's identity."""

    max_new_tokens: int = option(256, "Longest answer, in tokens.")
    temperature: float = option(0.0, "Temperature of sampling; 0 is greedy.")
    top_p: float = option(1.0, "Share of the probability mass to sample from, for a temperature above 0.")
    seed: int = option(0, "Seed of sampling, for a temperature above 0.")
    system: str | None = option(None, "System prompt put before every prompt.")
    batch_size: int = option(16, "Prompts at once; halved where memory does not suffice.")
    thinking: bool | None = option(
        None, "Whether a model that can think does so before it answers. Unset: its chat template decides."
    )


class Target(ABC):
    """A model that is evaluated.

    Attributes:
        name: Name in tables.
        identity: Identity of the target: `name`, `hash` (of the weights, where they are available) and the like.
    """

    name: str
    identity: dict[str, Any]

    @abstractmethod
    def generate(
        self, prompts: Sequence[Prompt], settings: GenerationSettings, *, description: str = "generating"
    ) -> list[Answer]:
        """Return one answer per prompt, in order, with its thoughts if the model thinks; shows a progress bar.

        Args:
            prompts: Messages, or text for a single user turn.
            settings: Settings of generation.
            description: Text beside the progress bar.
        """


class LocalTarget(Target):
    """A target whose model is in memory, so that likelihoods can be measured as well.

    Attributes:
        model: A causal language model of transformers or PEFT.
        tokenizer: Tokenizer of the model.
    """

    model: Any
    tokenizer: Any

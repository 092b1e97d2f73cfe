"""The comparator that asks a language model behind an OpenAI-compatible endpoint, by a rubric."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Self

from dualselect.evaluation.comparisons.base import Comparator, Preference, comparator
from dualselect.evaluation.judges.rubric import Rubric
from dualselect.evaluation.judges.settings import JudgeSettings, parse_endpoint
from dualselect.models.endpoint import Endpoint, Reply, Usage, find_objects


@comparator("api")
class ApiComparator(Comparator):
    """Prefers the answer that a language model prefers."""

    @classmethod
    def from_spec(cls, rest: str, settings: JudgeSettings, *, show_progress: bool) -> Self:
        """Return the comparator of `MODEL` or `MODEL@URL`; no request is sent yet."""
        return cls(parse_endpoint(rest, settings, show_progress))

    def __init__(self, endpoint: Endpoint, rubric: Rubric | None = None) -> None:
        """Make a comparator without a request.

        Args:
            endpoint: Endpoint of the model to ask.
            rubric: Rubric that says what to prefer; None takes the package's own.
        """
        self.endpoint = endpoint
        self.rubric = rubric or Rubric.packaged("dualselect.evaluation.comparisons", "pairwise")
        self.name = f"api-{PurePosixPath(endpoint.model).name}"
        self.version = f"{endpoint.model}, rubric {self.rubric.version}"

    @property
    def usage(self) -> Usage:
        """Requests, tokens and cost so far."""
        return self.endpoint.usage

    def prefer_all(self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> list[Preference]:
        """Return a preference for every prompt, in order; None where the request failed or the reply cannot be read.

        Raises:
            ConfigError: The endpoint cannot be used at all.
        """
        requests = [
            self.rubric.request(request=prompt, first=first, second=second)
            for prompt, first, second in zip(prompts, firsts, seconds, strict=True)
        ]
        return [read_preference(reply) for reply in self.endpoint.ask_all(requests, self.name)]


def read_preference(reply: Reply) -> Preference:
    """Return the preference in a reply; None where it contains none, or several that differ."""
    named = {str(item["better"]).strip().lower() for item in find_objects(reply.text or "", "better")}
    valid: set[Preference] = {choice for choice in _CHOICES if choice in named}
    return valid.pop() if len(valid) == 1 else None


_CHOICES: tuple[Preference, ...] = ("first", "second", "tie")

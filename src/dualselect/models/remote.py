"""A target behind an OpenAI-compatible address: a server on this machine, on the network, or at a provider."""

from collections.abc import Sequence
from typing import Any

from dualselect.models.answering import Messages, answer_all, identity_of
from dualselect.models.base import GenerationSettings, Target
from dualselect.models.cache import AnswerCache
from dualselect.models.endpoint import FILTERED, Endpoint, EndpointSettings, Reply
from dualselect.models.generation import OnBatch, Prompt
from dualselect.models.thoughts import Answer, thinking_options


class EndpointTarget(Target):
    """A model that answers over the chat completions API.

    Its weights are not available: the hash covers model name and address, and does not change when another model is
    served under the same name.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        cache: AnswerCache | None = None,
        settings: EndpointSettings | None = None,
    ) -> None:
        """Make a target; no request is sent yet.

        Args:
            model: Name of the model at the address.
            base_url: URL, such as `http://localhost:8000/v1`; None takes `$OPENAI_BASE_URL`, or OpenAI's own.
            cache: Cache of answers.
            settings: Settings of the requests.

        Raises:
            ConfigError: The package `openai` is not installed, or there is no key where one is needed.
        """
        self.endpoint = Endpoint(model, base_url, settings)
        self.endpoint.connect()
        self.name, self.cache = self.endpoint.name, cache
        self.identity = identity_of(self.name, "endpoint", {"model": model, "base_url": self.endpoint.base_url})

    def generate(
        self, prompts: Sequence[Prompt], settings: GenerationSettings, *, description: str = "generating"
    ) -> list[Answer]:
        """Return one answer per prompt, in order; shows a progress bar.

        A prompt that a content filter refuses, or whose request fails, has no answer but a reason.

        Raises:
            ConfigError: The server cannot be reached, takes no temperature, or refuses every request.
        """
        sampling: dict[str, Any] = {"temperature": settings.temperature, "max_tokens": settings.max_new_tokens}
        if settings.temperature > 0:
            sampling |= {"top_p": settings.top_p, "seed": settings.seed}
        if settings.thinking is not None:
            sampling["extra_body"] = {"chat_template_kwargs": thinking_options(settings.thinking)}
        failed: list[Reply] = []

        def ask(conversations: list[Messages], on_batch: OnBatch) -> None:
            done: dict[int, Answer] = {}

            def hand_over() -> None:
                if done:
                    on_batch(list(done), list(done.values()))
                    done.clear()

            def take(number: int, reply: Reply) -> None:
                failed.extend([reply] if reply.has_failed else [])
                done[number] = _answer(reply)
                if len(done) >= settings.batch_size:
                    hand_over()

            try:
                self.endpoint.ask_all(conversations, description, sampling, on_reply=take, exactly=True, may_fail=True)
            finally:
                hand_over()  # after a failure too, so that finished answers are kept

        answers = answer_all(self.identity, prompts, settings, self.cache, ask, keep_empty=False)
        if failed and all(answer.text is None and answer.finish != FILTERED for answer in answers):
            self.endpoint.give_up(failed[0])
        return answers


def _answer(reply: Reply) -> Answer:
    text = None if reply.text is None else reply.text.strip()
    return Answer(text, reply.finish, reason=reply.error)

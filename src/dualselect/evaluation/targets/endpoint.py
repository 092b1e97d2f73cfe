"""A target behind an OpenAI-compatible address: a server on this machine, on the network, or of a provider."""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from hashlib import sha256
from typing import Any

from dualselect.errors import ConfigError
from dualselect.evaluation.cache import AnswerCache, canonical
from dualselect.evaluation.generation import OnBatch, Prompt, progress_bar
from dualselect.evaluation.targets.answering import Messages, answer_all
from dualselect.evaluation.targets.base import GenerationSettings, Target

_NO_KEY = "none"  # servers on one's own machine ask for no key, the client does


class EndpointTarget(Target):
    """A model that answers over the chat completions interface.

    Its weights are not at hand: the hash stands for model name and address, and can't tell when another model is
    served under the same name. A failed request is tried again, also after 429 and 5xx, with growing pauses.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        cache: AnswerCache | None = None,
        concurrency: int = 8,
        retries: int = 5,
        timeout: float = 120.0,
    ) -> None:
        """Prepare for requests; none is made yet.

        Args:
            model: name of the model there.
            base_url: such as `http://localhost:8000/v1`; None takes `$OPENAI_BASE_URL`, or OpenAI's own.
            cache: of answers.
            concurrency: requests at once.
            retries: of one request.
            timeout: of one request, in seconds.

        Raises:
            ConfigError: the package `openai` is not installed, or there is no key where one is needed.
        """
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        self.name = f"api:{model}" + (f"@{base_url}" if base_url else "")
        parts = {"model": model, "base_url": self.base_url}
        self.identity = {
            "name": self.name,
            "kind": "endpoint",
            "hash": sha256(canonical(parts).encode()).hexdigest(),
            **parts,
        }
        self.model, self.cache, self.concurrency = model, cache, concurrency
        self._client = _client(self.name, self.base_url, retries, timeout)

    def generate(
        self, prompts: Sequence[Prompt], settings: GenerationSettings, *, description: str = "generating"
    ) -> list[str]:
        """Return one answer per prompt, in order; shows a progress bar.

        Raises:
            ConfigError: the server can't be reached, or refuses a request.
        """

        def ask(conversations: list[Messages], on_batch: OnBatch) -> None:
            self._ask_all(conversations, settings, on_batch, description)

        return answer_all(self.identity, prompts, settings, self.cache, ask)

    def _ask_all(
        self, conversations: list[Messages], settings: GenerationSettings, on_batch: OnBatch, description: str
    ) -> None:
        with (
            ThreadPoolExecutor(self.concurrency) as pool,
            progress_bar(description, len(conversations)) as advance,
        ):
            numbers = {
                pool.submit(self._ask, messages, settings): number for number, messages in enumerate(conversations)
            }
            done: list[tuple[int, str]] = []
            try:
                for future in as_completed(numbers):
                    done.append((numbers[future], future.result()))
                    advance(1)
                    if len(done) >= settings.batch_size:
                        _hand_over(done, on_batch)
            finally:
                # After a failure the answers that came before it are kept; what has not begun is given up.
                _cancel(numbers)
                _hand_over(done, on_batch)

    def _ask(self, messages: Messages, settings: GenerationSettings) -> str:
        import openai

        # OpenAI's newer models know the second name only, most other servers the first only.
        limit = "max_tokens" if self.base_url else "max_completion_tokens"
        sampling: dict[str, Any] = {"temperature": settings.temperature, limit: settings.max_new_tokens}
        if settings.temperature > 0:
            sampling |= {"top_p": settings.top_p, "seed": settings.seed}
        try:
            reply = self._client.chat.completions.create(model=self.model, messages=messages, **sampling)
        except openai.APIStatusError as error:
            raise ConfigError(
                f"{self.name}: the server answers {error.status_code} ({_line(error.message)}); check model name, "
                "key and settings"
            ) from error
        except openai.OpenAIError as error:
            raise ConfigError(
                f"{self.name}: no answer from {self.base_url or 'the API'} ({_line(error)}); check that the server "
                "runs and the address"
            ) from error
        if not reply.choices:
            raise ConfigError(f"{self.name}: the server's reply holds no answer; check that it serves chat completions")
        message = reply.choices[0].message
        return str(message.content or getattr(message, "refusal", None) or "").strip()


def _client(name: str, base_url: str | None, retries: int, timeout: float) -> Any:
    try:
        import openai
    except ImportError as error:
        raise ConfigError(f"{name}: needs the package openai; `pip install 'dualselect[api]'`") from error
    key = os.environ.get("OPENAI_API_KEY")
    if not key and base_url is None:
        raise ConfigError(
            f"{name}: needs a key; set OPENAI_API_KEY, or give an address as api:MODEL@http://HOST:PORT/v1"
        )
    return openai.OpenAI(api_key=key or _NO_KEY, base_url=base_url, max_retries=retries, timeout=timeout)


def _hand_over(done: list[tuple[int, str]], on_batch: OnBatch) -> None:
    if done:
        on_batch([number for number, _ in done], [answer for _, answer in done])
        done.clear()


def _cancel(futures: dict[Future[str], int]) -> None:
    for future in futures:
        future.cancel()


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300]

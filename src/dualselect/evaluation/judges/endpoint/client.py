"""Asking a model behind an OpenAI-compatible endpoint: many requests at once, patiently, and none of them twice."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from pathlib import Path
from typing import Any

from dualselect.errors import ConfigError
from dualselect.evaluation.judges.endpoint.pace import RateLimit, backoff
from dualselect.evaluation.judges.endpoint.replies import ReplyCache, request_key
from dualselect.evaluation.judges.endpoint.settings import EndpointSettings, Reply, Usage

_ERROR_CHARACTERS = 300
#: Newer models of OpenAI take the limit under another name, and no temperature at all.
_SUBSTITUTES: dict[str, str | None] = {"max_tokens": "max_completion_tokens", "temperature": None}


class Endpoint:
    """A model at an OpenAI-compatible endpoint, asked greedily.

    The key is read from `OPENAI_API_KEY` when the first request goes out, and is never written anywhere.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        settings: EndpointSettings | None = None,
        *,
        cache_folder: Path | None = None,
        show_progress: bool = True,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """Make a client without a request.

        Args:
            model: as the endpoint calls it.
            base_url: such as `http://127.0.0.1:8000/v1`; None takes `OPENAI_BASE_URL`, or OpenAI's own.
            settings: how it is asked.
            cache_folder: where replies are kept; None for memory only.
            show_progress: whether to show a bar.
            sleep: waits a number of seconds; None for a wait that ends when the run does.
        """
        self.model = model
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        self.settings = settings or EndpointSettings()
        self.usage = Usage()
        self._cache_path = cache_folder / f"{_file_name(model)}.jsonl" if cache_folder else None
        self._show_progress = show_progress
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait
        self._limit = RateLimit(self.settings.requests_per_minute, sleep=self._sleep)
        self._lock = threading.Lock()
        self._parameters: dict[str, Any] = {"temperature": 0.0, "max_tokens": self.settings.max_tokens}

    def ask_all(self, requests: Sequence[str], description: str) -> list[Reply]:
        """Return a reply per request (the text of one user turn), in order; a failed one has no text.

        Raises:
            ConfigError: the endpoint can't be reached, refuses the key or does not know the model, or the `openai`
                package is missing.
        """
        from dualselect.evaluation.generation import progress_bar

        self._client, self._cache  # noqa: B018  # made here once, and not by several threads
        self._stopped.clear()
        different = list(dict.fromkeys(requests))
        replies: dict[str, Reply] = {}
        with (
            progress_bar(description, len(different), self._show_progress) as advance,
            ThreadPoolExecutor(max_workers=max(1, self.settings.concurrency)) as pool,
        ):
            waiting = {pool.submit(self._ask, request): request for request in different}
            try:
                for future in as_completed(waiting):
                    replies[waiting[future]] = future.result()
                    advance(1)
            except BaseException:
                self._stopped.set()  # threads that wait for another try give up
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [replies[request] for request in requests]

    def _ask(self, request: str) -> Reply:
        key = request_key([self.base_url, self.model, self.settings.max_tokens, request])
        known = self._cache.get(key)
        if known is not None:
            with self._lock:
                self.usage.cached += 1
            return known
        reply = self._ask_patiently(request)
        if reply.text is not None:
            self._cache.put(key, reply)
        with self._lock:
            self.usage.add(reply, self.settings)
        return reply

    def _ask_patiently(self, request: str) -> Reply:
        import openai

        failure: Exception
        for attempt in range(max(1, self.settings.attempts)):
            if attempt:
                with self._lock:
                    self.usage.retries += 1
            self._limit.wait()
            if self._stopped.is_set():
                return Reply(None, "the run was stopped")
            try:
                return self._ask_once(request)
            except (openai.APIConnectionError, _MalformedReplyError) as error:  # a timeout is one of the former
                failure, headers = error, dict[str, str]()
            except openai.APIStatusError as error:
                self._check_access(error)
                if error.status_code not in (408, 409, 425, 429) and error.status_code < 500:
                    return Reply(None, self._told(error))
                failure, headers = error, dict(error.response.headers)
            if attempt + 1 < self.settings.attempts:
                self._sleep(backoff(attempt, headers, self.settings.first_wait, self.settings.longest_wait))
        if isinstance(failure, openai.APIConnectionError) and not isinstance(failure, openai.APITimeoutError):
            raise ConfigError(
                f"{self._place}: can't be reached after {self.settings.attempts} tries; check the address and that the "
                "server runs, then start again: what was answered is kept"
            ) from failure
        return Reply(None, self._told(failure))

    def _ask_once(self, request: str) -> Reply:
        import openai

        messages = [{"role": "user", "content": request}]
        sent = dict(self._parameters)
        try:
            answer = self._client.chat.completions.create(model=self.model, messages=messages, **sent)
        except openai.BadRequestError as error:
            refused = next((name for name in _SUBSTITUTES if name in sent and f"'{name}'" in str(error.message)), None)
            if refused is None:
                raise
            self._replace_parameter(refused)
            return self._ask_once(request)
        except ValueError as error:  # JSON that is none
            raise _MalformedReplyError("the server's reply is no JSON") from error
        return _read(answer)

    def _replace_parameter(self, name: str) -> None:
        with self._lock:
            parameters = dict(self._parameters)
            value = parameters.pop(name, None)
            substitute = _SUBSTITUTES[name]
            if substitute is not None and value is not None:
                parameters[substitute] = value
            self._parameters = parameters

    def _check_access(self, error: Any) -> None:
        if error.status_code in (401, 403):
            raise ConfigError(
                f"{self._place}: refuses the key (status {error.status_code}); set OPENAI_API_KEY to one that may use "
                "this model"
            ) from None
        if error.status_code == 404:
            raise ConfigError(
                f"{self._place}: is not known there (status 404); check the model's name and that the address ends as "
                "the server wants it, mostly in /v1"
            ) from None

    def _told(self, error: Exception) -> str:
        """Return an error in one line, without the key should the server repeat it."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        key = os.environ.get("OPENAI_API_KEY")
        return (text.replace(key, "***") if key else text)[:_ERROR_CHARACTERS]

    @property
    def _place(self) -> str:
        return f"api: model '{self.model}' at {self.base_url or 'the default address'}"

    @cached_property
    def _cache(self) -> ReplyCache:
        return ReplyCache(self._cache_path)

    @cached_property
    def _client(self) -> Any:
        from openai import OpenAI

        # A local server wants none, but the client insists on one.
        key = os.environ.get("OPENAI_API_KEY") or ("none" if self.base_url else None)
        if key is None:
            raise ConfigError(f"{self._place}: needs a key; set OPENAI_API_KEY, or name a server as api:MODEL@URL")
        return OpenAI(api_key=key, base_url=self.base_url, timeout=self.settings.timeout, max_retries=0)


class _MalformedReplyError(Exception):
    """What came back is no chat completion; the next try may bring one."""


def _read(answer: Any) -> Reply:
    """Return text and token counts of a completion; one without text, as after a filter, counts as failed."""
    try:
        text, usage = answer.choices[0].message.content, answer.usage
        counts = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    except (AttributeError, IndexError, TypeError) as error:
        raise _MalformedReplyError("the server's reply is no chat completion") from error
    return Reply(text, "", *counts) if isinstance(text, str) else Reply(None, "the reply holds no text")


def require_openai() -> None:
    """Check that the client package is there.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise ConfigError("judge api: needs the package 'openai'; run `pip install 'dualselect[api]'`") from error


def _file_name(model: str) -> str:
    safe = "".join(character if character.isalnum() or character in "-._" else "-" for character in model)
    return f"{safe.lstrip('.')[:60]}-{request_key(model)[:8]}"

"""Asking a model behind an OpenAI-compatible endpoint: many requests at once, patiently, and none of them twice."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from pathlib import Path
from typing import Any

from dualselect.errors import ConfigError, one_line
from dualselect.models.endpoint.pace import RateLimit, backoff
from dualselect.models.endpoint.replies import ReplyCache, request_key
from dualselect.models.endpoint.settings import EndpointSettings, Reply, Usage

#: The text of one user turn, or messages.
Request = str | Sequence[Mapping[str, str]]
#: Takes the number of a request and the reply to it; called by one thread at a time.
OnReply = Callable[[int, Reply], object]

_ERROR_CHARACTERS = 300
#: Newer models of OpenAI take the limit under another name, and no temperature at all.
_SUBSTITUTES: dict[str, str | None] = {"max_tokens": "max_completion_tokens", "temperature": None}


class Endpoint:
    """A model at an OpenAI-compatible endpoint.

    The key is read from `OPENAI_API_KEY` before the first request goes out, and is never written anywhere.

    Attributes:
        name: `api:MODEL`, or `api:MODEL@URL`.
        base_url: where the model is asked; None for OpenAI's own address.
        usage: what was asked so far.
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
            cache_folder: where replies are kept; None keeps none.
            show_progress: whether to show a bar.
            sleep: waits a number of seconds; None for a wait that ends when the run does.

        Raises:
            ConfigError: the package `openai` is not installed.
        """
        self.model = model
        self.name = f"api:{model}" + (f"@{base_url}" if base_url else "")
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        self.settings = settings or EndpointSettings()
        self.usage = Usage()
        self._cache_path = cache_folder / f"{_file_name(model)}.jsonl" if cache_folder else None
        self._show_progress = show_progress
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait
        self._limit = RateLimit(self.settings.requests_per_minute, sleep=self._sleep)
        self._lock = threading.Lock()
        self._refused = frozenset[str]() if self.base_url else frozenset({"max_tokens"})
        _require_openai(self.name)

    def connect(self) -> None:
        """Make what requests need; none is sent.

        Raises:
            ConfigError: there is no key where one is needed.
            DataError: the cache can't be read.
        """
        self._client, self._cache  # noqa: B018  # made here once, and not by several threads

    def ask_all(
        self,
        requests: Sequence[Request],
        description: str,
        sampling: Mapping[str, Any] | None = None,
        *,
        on_reply: OnReply | None = None,
        strict: bool = False,
    ) -> list[Reply]:
        """Return a reply per request, in order; a failed one has no text. Equal requests are asked once.

        Args:
            requests: what is asked.
            description: what the progress bar says.
            sampling: `temperature`, `max_tokens` and the like; None asks greedily, for as much as the settings say.
            on_reply: called with each reply as it comes, so that it can be kept.
            strict: whether a request that fails ends the run; else a model that takes no temperature is asked without.

        Raises:
            ConfigError: the endpoint can't be reached, refuses the key or does not know the model; if `strict`, also a
                request that failed.
        """
        from dualselect.models.batches import progress_bar

        self.connect()
        self._stopped.clear()
        sampling = dict(sampling or {"temperature": 0.0, "max_tokens": self.settings.max_tokens})
        keys = [request_key([self.base_url, self.model, sampling, request]) for request in requests]
        numbers: dict[str, int] = {}
        for number, key in enumerate(keys):
            numbers.setdefault(key, number)
        replies: dict[str, Reply] = {}

        def ask(key: str, number: int) -> None:
            reply = self._known(key) or self._ask(key, requests[number], sampling, strict)
            with self._lock:
                replies[key] = reply
                if on_reply:
                    on_reply(number, reply)

        with (
            progress_bar(description, len(numbers), self._show_progress) as advance,
            ThreadPoolExecutor(max_workers=max(1, self.settings.concurrency)) as pool,
        ):
            waiting = [pool.submit(ask, *item) for item in numbers.items()]
            try:
                for future in as_completed(waiting):
                    future.result()
                    advance(1)
            except BaseException:
                self._stopped.set()  # threads that wait for another try give up
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [replies[key] for key in keys]

    def _known(self, key: str) -> Reply | None:
        known = self._cache.get(key) if self._cache else None
        if known:
            with self._lock:
                self.usage.cached += 1
        return known

    def _ask(self, key: str, request: Request, sampling: Mapping[str, Any], strict: bool) -> Reply:
        reply = self._ask_patiently(request, sampling, strict)
        if self._cache and reply.text:  # an empty one may be a filter's doing
            self._cache.put(key, reply)
        with self._lock:
            self.usage.add(reply, self.settings)
        if strict and reply.text is None:
            raise ConfigError(f"{self.name}: {reply.error}; check the model's name and the settings")
        return reply

    def _ask_patiently(self, request: Request, sampling: Mapping[str, Any], strict: bool) -> Reply:
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
                return self._ask_once(request, sampling, strict)
            except (openai.APIConnectionError, _MalformedReplyError) as error:  # a timeout is one of the former
                failure, headers = error, dict[str, str]()
            except openai.APIStatusError as error:
                self._check_access(error)
                if error.status_code not in (408, 409, 425, 429) and error.status_code < 500:
                    return Reply(None, _told(error))
                failure, headers = error, dict(error.response.headers)
            if attempt + 1 < self.settings.attempts:
                self._sleep(backoff(attempt, headers, self.settings.first_wait, self.settings.longest_wait))
        if isinstance(failure, openai.APIConnectionError) and not isinstance(failure, openai.APITimeoutError):
            raise ConfigError(
                f"{self.name}: can't be reached after {self.settings.attempts} tries; check that a server runs at "
                f"{self.base_url or 'the default address'}, then start again: what was answered is kept"
            ) from failure
        return Reply(None, _told(failure))

    def _ask_once(self, request: Request, sampling: Mapping[str, Any], strict: bool) -> Reply:
        import openai

        messages = [{"role": "user", "content": request}] if isinstance(request, str) else request
        names = {name: _SUBSTITUTES[name] if name in self._refused else name for name in sampling}
        sent = {sent_as: sampling[name] for name, sent_as in names.items() if sent_as}
        try:
            answer = self._client.chat.completions.create(model=self.model, messages=messages, **sent)
        except openai.BadRequestError as error:
            refused = next((name for name in _SUBSTITUTES if name in sent and f"'{name}'" in str(error.message)), None)
            if refused is None or (strict and _SUBSTITUTES[refused] is None):
                raise
            with self._lock:
                self._refused |= {refused}
            return self._ask_once(request, sampling, strict)
        except ValueError as error:  # JSON that is none
            raise _MalformedReplyError("the server's reply is no JSON") from error
        return _read(answer)

    def _check_access(self, error: Any) -> None:
        if error.status_code in (401, 403):
            raise ConfigError(
                f"{self.name}: refuses the key (status {error.status_code}); set OPENAI_API_KEY to one that may use "
                "this model"
            ) from None
        if error.status_code == 404:
            raise ConfigError(
                f"{self.name}: is not known there (status 404); check the model's name and that the address ends as "
                "the server wants it, mostly in /v1"
            ) from None

    @cached_property
    def _cache(self) -> ReplyCache | None:
        return ReplyCache(self._cache_path) if self._cache_path else None

    @cached_property
    def _client(self) -> Any:
        from openai import OpenAI

        # A local server wants none, but the client insists on one.
        key = os.environ.get("OPENAI_API_KEY") or ("none" if self.base_url else None)
        if key is None:
            raise ConfigError(f"{self.name}: needs a key; set OPENAI_API_KEY, or name a server as api:MODEL@URL")
        return OpenAI(api_key=key, base_url=self.base_url, timeout=self.settings.timeout, max_retries=0)


class _MalformedReplyError(Exception):
    """What came back is no chat completion; the next try may bring one."""


def _read(answer: Any) -> Reply:
    """Return text and token counts of a completion; a refusal that is given apart from the content is its text."""
    try:
        message, usage = answer.choices[0].message, answer.usage
        counts = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        return Reply(str(message.content or message.refusal or ""), "", *counts)
    except (AttributeError, IndexError, TypeError) as error:
        raise _MalformedReplyError("the server's reply is no chat completion") from error


def _told(error: Exception) -> str:
    """Return an error in one line, without the key should the server repeat it."""
    status = getattr(error, "status_code", None)
    text = one_line(f"the server answers {status} ({error})" if status else error)
    key = os.environ.get("OPENAI_API_KEY")
    return (text.replace(key, "***") if key else text)[:_ERROR_CHARACTERS]


def _require_openai(name: str) -> None:
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{name}: needs the package openai; `pip install 'dualselect[api]'`") from error


def _file_name(model: str) -> str:
    safe = "".join(character if character.isalnum() or character in "-._" else "-" for character in model)
    return f"{safe.lstrip('.')[:60]}-{request_key(model)[:8]}"

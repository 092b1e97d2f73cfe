"""Asking a model behind an OpenAI-compatible endpoint: concurrent requests, retries, and no request twice."""

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from dualselect.errors import ConfigError, one_line
from dualselect.models.endpoint.pace import RateLimit, backoff
from dualselect.models.endpoint.replies import MalformedReplyError, ReplyCache, read_reply, request_key, well_formed
from dualselect.models.endpoint.settings import FILTERED, EndpointSettings, Reply, Usage

#: The text of one user turn, or messages.
Request = str | Sequence[Mapping[str, str]]
#: Takes the number of a request and the reply to it; called by one thread at a time.
OnReply = Callable[[int, Reply], object]

_ERROR_CHARACTERS = 300
#: Requests that fail in a row, after all tries, before the endpoint counts as gone.
_GONE = 8
#: Newer models of OpenAI take the limit under another name, and no temperature at all.
_SUBSTITUTES: dict[str, str | None] = {"max_tokens": "max_completion_tokens", "temperature": None}
_UNSUPPORTED = re.compile(r"support|unrecogni[sz]ed|unknown|not (?:allowed|permitted)|deprecated|unexpected", re.I)
#: How servers say that a content filter refused a prompt, in codes and in sentences.
_FILTERS = re.compile(
    r"content[ _-]?(?:filter|management|policy|moderation|safety)|responsible ?ai|safety[ _-]?(?:filter|system|polic)"
    r"|data_?inspection|moderation|flagged|inappropriate content",
    re.I,
)


class Endpoint:
    """A model at an OpenAI-compatible endpoint.

    The key is read from `OPENAI_API_KEY` before the first request goes out, and is never written anywhere.

    Attributes:
        name: `api:MODEL`, or `api:MODEL@URL`.
        base_url: Address at which the model is asked; None for OpenAI's own.
        usage: Requests, tokens and cost so far.
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
        """Make a client; no request is sent.

        Args:
            model: Name of the model at the endpoint.
            base_url: Address such as `http://127.0.0.1:8000/v1`; None takes `OPENAI_BASE_URL`, or OpenAI's own.
            settings: Settings of the requests.
            cache_folder: Folder in which replies are kept; None keeps none.
            show_progress: Whether to show a progress bar.
            sleep: Function that waits a number of seconds; None for a wait that ends when the run does.

        Raises:
            ConfigError: The package `openai` is not installed.
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
        self._failed_in_a_row = 0
        self._refused = frozenset[str]() if self.base_url else frozenset({"max_tokens"})
        _require_openai(self.name)

    def connect(self) -> None:
        """Make what requests need; no request is sent.

        Raises:
            ConfigError: There is no key where one is needed.
            DataError: The cache cannot be read.
        """
        self._client, self._cache  # noqa: B018  # made here once, not by several threads

    def ask_all(
        self,
        requests: Sequence[Request],
        description: str,
        sampling: Mapping[str, Any] | None = None,
        *,
        on_reply: OnReply | None = None,
        exactly: bool = False,
        may_fail: bool = False,
    ) -> list[Reply]:
        """Return a reply per request, in order; one that failed has no text. Equal requests are asked once.

        Args:
            requests: Texts of user turns, or messages.
            description: Text beside the progress bar.
            sampling: Parameters such as `temperature` and `max_tokens`; None asks greedily, up to the settings' limit.
            on_reply: Function that takes each reply as it comes, to keep it.
            exactly: Whether sampling must be as given; else a model that takes no temperature is asked without one.
            may_fail: Whether all requests may fail, because the caller has other replies.

        Raises:
            ConfigError: The endpoint cannot be reached, refuses the key or does not know the model; or all requests
                failed, or so many in a row that further ones are pointless.
        """
        from dualselect.models.batches import progress_bar

        self.connect()
        self._stopped.clear()
        self._failed_in_a_row = 0
        sampling = dict(sampling or {"temperature": 0.0, "max_tokens": self.settings.max_tokens})
        keys = [request_key([self.base_url, self.model, sampling, request]) for request in requests]
        numbers: dict[str, int] = {}
        for number, key in enumerate(keys):
            numbers.setdefault(key, number)
        replies: dict[str, Reply] = {}

        def ask(key: str, number: int) -> None:
            reply = self._known(key) or self._ask(key, requests[number], sampling, exactly)
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
                self._stopped.set()  # threads that wait for a retry give up
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if replies and not may_fail and all(reply.has_failed for reply in replies.values()):
            self.give_up(replies[keys[0]])
        return [replies[key] for key in keys]

    def give_up(self, reply: Reply) -> NoReturn:
        """Raise the error of an endpoint that gave no answer.

        Args:
            reply: One of the failed replies.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{self.name}: {reply.error}; check the server, the model's name and the settings")

    def _known(self, key: str) -> Reply | None:
        known = self._cache.get(key) if self._cache else None
        if known:
            with self._lock:
                self.usage.cached += 1
        return known

    def _ask(self, key: str, request: Request, sampling: Mapping[str, Any], exactly: bool) -> Reply:
        reply = self._ask_patiently(request, sampling, exactly)
        if self._cache and reply.text:  # the next try may return text
            self._cache.put(key, reply)
        with self._lock:
            self.usage.add(reply, self.settings)
        return reply

    def _ask_patiently(self, request: Request, sampling: Mapping[str, Any], exactly: bool) -> Reply:
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
                reply = self._ask_once(request, sampling, exactly)
            except (openai.APIConnectionError, MalformedReplyError) as error:  # a timeout is one of the former
                failure, headers = error, dict[str, str]()
            except openai.APIStatusError as error:
                if _is_filtered(error):
                    return Reply(None, f"refused by the content filter: {_told(error)}", finish=FILTERED)
                self._check_access(error)
                if error.status_code not in (408, 409, 425, 429) and error.status_code < 500:
                    return Reply(None, _told(error))
                failure, headers = error, dict(error.response.headers)
            else:
                self._failed_in_a_row = 0
                return reply
            if attempt + 1 < self.settings.attempts:
                self._sleep(backoff(attempt, headers, self.settings.first_wait, self.settings.longest_wait))
        return self._given_up(failure)

    def _given_up(self, failure: Exception) -> Reply:
        """Return the reply to a request whose tries all failed, unless the endpoint is gone.

        Raises:
            ConfigError: Nothing listens there, or too many requests in a row have failed.
        """
        with self._lock:
            self._failed_in_a_row += 1
        if _is_refused_connection(failure) or self._failed_in_a_row >= _GONE:
            self._stopped.set()  # no other thread starts a request
            raise ConfigError(
                f"{self.name}: cannot be reached after {self.settings.attempts} tries ({_told(failure)}); check that a "
                f"server runs at {self.base_url or 'the default address'}, then start again: what was answered is kept"
            ) from failure
        return Reply(None, _told(failure))

    def _ask_once(self, request: Request, sampling: Mapping[str, Any], exactly: bool) -> Reply:
        import openai

        turns = [{"role": "user", "content": request}] if isinstance(request, str) else request
        messages = [{name: well_formed(value) for name, value in turn.items()} for turn in turns]
        names = {name: _SUBSTITUTES[name] if name in self._refused else name for name in sampling}
        sent = {sent_as: sampling[name] for name, sent_as in names.items() if sent_as}
        try:
            answer = self._client.chat.completions.create(model=self.model, messages=messages, **sent)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            refused = _unsupported(error, sent)
            if refused is None:
                raise
            if exactly and _SUBSTITUTES[refused] is None:
                raise ConfigError(
                    f"{self.name}: takes no {refused}, so answers would not be those of the settings "
                    f"({_told(error)}); choose another model"
                ) from error
            with self._lock:
                self._refused |= {refused}
            return self._ask_once(request, sampling, exactly)
        except ValueError as error:
            raise MalformedReplyError("the server's reply is not JSON") from error
        return read_reply(answer)

    def _check_access(self, error: Any) -> None:
        if error.status_code in (401, 403):
            raise ConfigError(
                f"{self.name}: refuses the key (status {error.status_code}); set OPENAI_API_KEY to one that may use "
                "this model"
            ) from None
        if error.status_code == 404:
            raise ConfigError(
                f"{self.name}: not found there (status 404); check the model's name and that the address ends as "
                "the server expects, mostly in /v1"
            ) from None

    @cached_property
    def _cache(self) -> ReplyCache | None:
        return ReplyCache(self._cache_path) if self._cache_path else None

    @cached_property
    def _client(self) -> Any:
        from openai import OpenAI

        # A local server needs none, but the client insists on one.
        key = os.environ.get("OPENAI_API_KEY") or ("none" if self.base_url else None)
        if key is None:
            raise ConfigError(f"{self.name}: needs a key; set OPENAI_API_KEY, or name a server as api:MODEL@URL")
        return OpenAI(api_key=key, base_url=self.base_url, timeout=self.settings.timeout, max_retries=0)


def parse_address(text: str) -> tuple[str, str | None]:
    """Return the model and the URL, if there is one, of `MODEL` or `MODEL@URL`; a model's name may contain an @ too.

    Raises:
        ConfigError: There is no model, or what looks like an address is not a URL.
    """
    model, url = re.fullmatch(r"(.*?)(?:@(https?://.*))?", text.strip(), re.DOTALL).groups()  # type: ignore[union-attr]
    if not model or re.search(r"@[^@/]*:\d+(/|$)", model):
        cause = "names no URL" if model else "names no model"
        raise ConfigError(
            f"api:{text}: {cause}; give it as api:MODEL or api:MODEL@URL, with a URL such as http://127.0.0.1:8000/v1"
        )
    return model, url


def _is_filtered(error: Any) -> bool:
    said = f"{error.code} {error.message} {error.body}"
    return error.status_code in (400, 403, 422, 451) and _FILTERS.search(said) is not None


def _is_refused_connection(error: Exception) -> bool:
    """Return whether nothing listens at the address, as opposed to a connection that broke."""
    import openai

    return isinstance(error, openai.APIConnectionError) and type(error.__cause__).__name__ == "ConnectError"


def _unsupported(error: Any, sent: Mapping[str, Any]) -> str | None:
    """Return the setting that the model does not take, according to the server, if requests can do without it."""
    if not _UNSUPPORTED.search(f"{error.code} {error.message}"):
        return None
    named = (name for name in _SUBSTITUTES if name == error.param or re.search(rf"\b{name}\b", error.message))
    return next((name for name in named if name in sent), None)


def _told(error: Exception) -> str:
    """Return an error in one line, without the key, which the server may repeat."""
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

"""Settings of an OpenAI-compatible endpoint, its replies, and their count and cost."""

from dataclasses import dataclass

from dualselect.options import documented, option

#: `finish` of a reply that a content filter has held back.
FILTERED = "content_filter"


@documented
@dataclass(frozen=True)
class EndpointSettings:
    """Settings of requests to an endpoint."""

    max_tokens: int = option(512, "Longest reply, in tokens.")
    concurrency: int = option(8, "Requests at once.")
    requests_per_minute: float = option(0.0, "Most requests to start per minute; 0 for no limit.")
    attempts: int = option(6, "Tries of one request before it counts as failed.")
    first_wait: float = option(
        1.0, "Seconds before the second try; doubled with each try, unless the server says how long to wait."
    )
    longest_wait: float = option(60.0, "Seconds of the longest wait between tries.")
    timeout: float = option(120.0, "Seconds until a try counts as failed.")
    price_in: float = option(0.0, "Price of a million prompt tokens, in any currency; 0 if unknown.")
    price_out: float = option(0.0, "Price of a million reply tokens.")


@dataclass(frozen=True)
class Reply:
    """The reply to one request.

    Attributes:
        text: Text of the reply; None where the request failed or a content filter held the reply back.
        error: Reason why there is no text.
        prompt_tokens: Tokens of the prompt, as the server counts them.
        reply_tokens: Tokens of the reply, as the server counts them.
        finish: Reason of the reply's end, in the server's words, such as `stop`, `length` and `content_filter`; empty
            where it does not say.
    """

    text: str | None
    error: str = ""
    prompt_tokens: int = 0
    reply_tokens: int = 0
    finish: str = ""

    @property
    def has_failed(self) -> bool:
        """Whether the request failed; a content filter's refusal is a result of its own."""
        return self.text is None and self.finish != FILTERED


@dataclass
class Usage:
    """The requests made to an endpoint, and their cost.

    Attributes:
        requests: Requests that were answered.
        cached: Replies that were taken from the cache instead.
        failed: Requests that failed.
        filtered: Requests that a content filter refused.
        retries: Tries after the first.
        prompt_tokens: Tokens of the prompts of all answered requests.
        reply_tokens: Tokens of the replies to these requests.
        cost: Cost at the prices of the settings; 0 without prices.
    """

    requests: int = 0
    cached: int = 0
    failed: int = 0
    filtered: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    reply_tokens: int = 0
    cost: float = 0.0

    def add(self, reply: Reply, settings: EndpointSettings) -> None:
        """Count a reply that came from the endpoint."""
        self.failed += reply.has_failed
        self.filtered += reply.finish == FILTERED
        self.requests += reply.text is not None
        self.prompt_tokens += reply.prompt_tokens
        self.reply_tokens += reply.reply_tokens
        self.cost += (reply.prompt_tokens * settings.price_in + reply.reply_tokens * settings.price_out) / 1e6

    def __str__(self) -> str:
        parts = [f"{self.requests} requests", f"{self.prompt_tokens} + {self.reply_tokens} tokens"]
        counted = ("cached", "failed", "filtered", "retries")
        parts += [f"{count} {name}" for name in counted if (count := getattr(self, name))]
        return ", ".join([*parts, f"cost {self.cost:.4f}"] if self.cost else parts)

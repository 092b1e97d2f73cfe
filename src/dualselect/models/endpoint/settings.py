"""How an OpenAI-compatible endpoint is asked, and what that came to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EndpointSettings:
    """How an endpoint is asked.

    Attributes:
        max_tokens: longest reply.
        concurrency: requests at once.
        requests_per_minute: most requests to start in a minute; 0 for no limit.
        attempts: tries of one request before it counts as failed.
        first_wait: seconds before the second try; doubled with each try, unless the server says how long to wait.
        longest_wait: seconds of the longest wait between tries.
        timeout: seconds until a try counts as failed.
        price_in: of a million prompt tokens, in any currency; 0 if unknown.
        price_out: of a million reply tokens.
    """

    max_tokens: int = 512
    concurrency: int = 8
    requests_per_minute: float = 0.0
    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0
    timeout: float = 120.0
    price_in: float = 0.0
    price_out: float = 0.0


@dataclass(frozen=True)
class Reply:
    """What came back for one request.

    Attributes:
        text: what was written; None where the request failed.
        error: why it failed.
        prompt_tokens: as the server counts them.
        reply_tokens: likewise.
    """

    text: str | None
    error: str = ""
    prompt_tokens: int = 0
    reply_tokens: int = 0


@dataclass
class Usage:
    """What was asked of an endpoint.

    Attributes:
        requests: requests that were answered.
        cached: replies that were taken from the cache instead.
        failed: requests that came to nothing.
        retries: further tries.
        prompt_tokens: of all answered requests.
        reply_tokens: likewise.
        cost: at the prices of the settings; 0 without prices.
    """

    requests: int = 0
    cached: int = 0
    failed: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    reply_tokens: int = 0
    cost: float = 0.0

    def add(self, reply: Reply, settings: EndpointSettings) -> None:
        """Count a reply that came from the endpoint."""
        if reply.text is None:
            self.failed += 1
            return
        self.requests += 1
        self.prompt_tokens += reply.prompt_tokens
        self.reply_tokens += reply.reply_tokens
        self.cost += (reply.prompt_tokens * settings.price_in + reply.reply_tokens * settings.price_out) / 1e6

    def __str__(self) -> str:
        parts = [f"{self.requests} requests", f"{self.prompt_tokens} + {self.reply_tokens} tokens"]
        parts += [f"{count} {name}" for name in ("cached", "failed", "retries") if (count := getattr(self, name))]
        return ", ".join([*parts, f"cost {self.cost:.4f}"] if self.cost else parts)

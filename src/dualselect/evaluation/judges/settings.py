"""Settings of judges: batches, rate limits, prices and the folder of replies; none changes a verdict."""

from dataclasses import dataclass, field
from pathlib import Path

from dualselect.files import cache_folder
from dualselect.models.endpoint import Endpoint, EndpointSettings, parse_address
from dualselect.options import documented


@documented
@dataclass(frozen=True)
class JudgeSettings:
    """Settings of judges; none changes a verdict."""

    judge_batch_size: int = field(default=8, metadata={"help": "Answers that a local judge takes at once."})
    api_concurrency: int = field(default=8, metadata={"help": "Requests at once to a judge behind an endpoint."})
    api_requests_per_minute: float = field(default=0.0, metadata={"help": "Rate limit of an endpoint; 0 for none."})
    api_price_in: float = field(default=0.0, metadata={"help": "Price of a million prompt tokens, for the cost."})
    api_price_out: float = field(default=0.0, metadata={"help": "Price of a million reply tokens, for the cost."})
    judge_cache: str = field(
        default="", metadata={"help": "Folder that keeps replies of endpoints; empty for the cache folder."}
    )

    @property
    def cache_folder(self) -> Path:
        """The folder in which replies of endpoints are kept."""
        return Path(self.judge_cache).expanduser() if self.judge_cache else cache_folder() / "judges"

    @property
    def endpoint(self) -> EndpointSettings:
        """The settings of an endpoint."""
        return EndpointSettings(
            concurrency=self.api_concurrency,
            requests_per_minute=self.api_requests_per_minute,
            price_in=self.api_price_in,
            price_out=self.api_price_out,
        )


def parse_endpoint(rest: str, settings: JudgeSettings, show_progress: bool) -> Endpoint:
    """Return the endpoint of `MODEL` or `MODEL@URL`.

    Raises:
        ConfigError: No model is given, the URL is not valid, or the client package is missing.
    """
    model, url = parse_address(rest)
    return Endpoint(model, url, settings.endpoint, cache_folder=settings.cache_folder, show_progress=show_progress)

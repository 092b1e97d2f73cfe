"""Judges by name: `refusal`, `guard:org/model`, `api:model@http://127.0.0.1:8000/v1`, `reward:org/model`."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dualselect.errors import ConfigError, nearest
from dualselect.evaluation.judges.api import ApiJudge
from dualselect.evaluation.judges.base import Judge
from dualselect.evaluation.judges.guards import GuardJudge, family_named
from dualselect.evaluation.judges.refusal import RefusalRules
from dualselect.evaluation.judges.reward import RewardJudge
from dualselect.files import cache_folder
from dualselect.models.endpoint import Endpoint, EndpointSettings, parse_address

DEFAULT_GUARD = "Qwen/Qwen3Guard-Gen-0.6B"


@dataclass(frozen=True)
class JudgeSettings:
    """How judges work; none of it changes a verdict."""

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
        """Where replies of endpoints are kept."""
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


def parse_judges(
    specs: str | Sequence[str], settings: JudgeSettings | None = None, *, show_progress: bool = True
) -> list[Judge]:
    """Return the judges of some specs, in order; none of them has loaded a model or sent a request yet.

    Args:
        specs: a list, or text with commas between specs: `refusal`, `refusal:anywhere`, `guard`, `guard:MODEL`,
            `guard:FAMILY=MODEL`, `api:MODEL`, `api:MODEL@URL`, `reward:MODEL`.
        settings: how they work.
        show_progress: whether they show bars.

    Raises:
        ConfigError: a spec is unknown or incomplete, or two judges have the same name.
    """
    names = specs.split(",") if isinstance(specs, str) else list(specs)
    made = [parse_judge(name, settings, show_progress=show_progress) for name in names if name.strip()]
    twice = [name for name, count in Counter(judge.name for judge in made).items() if count > 1]
    if twice:
        raise ConfigError(f"judges: two are called '{twice[0]}'; name each judge once, and models by different names")
    return made


def parse_judge(spec: str, settings: JudgeSettings | None = None, *, show_progress: bool = True) -> Judge:
    """Return the judge of one spec.

    Raises:
        ConfigError: the spec is unknown or incomplete.
    """
    kind, _, rest = spec.strip().partition(":")
    if kind not in _MAKERS:
        raise ConfigError(f"judges: unknown judge '{spec.strip()}'{nearest(kind, _MAKERS)}")
    return _MAKERS[kind](rest.strip(), settings or JudgeSettings(), show_progress)


def parse_endpoint(rest: str, settings: JudgeSettings, show_progress: bool) -> Endpoint:
    """Return the endpoint of `MODEL` or `MODEL@URL`.

    Raises:
        ConfigError: there is no model, the URL is none, or the client package is missing.
    """
    model, url = parse_address(rest)
    return Endpoint(model, url, settings.endpoint, cache_folder=settings.cache_folder, show_progress=show_progress)


def _refusal(rest: str, settings: JudgeSettings, show_progress: bool) -> Judge:
    if rest in ("", "prefix"):
        return RefusalRules()
    if rest == "anywhere":
        return RefusalRules("anywhere")
    raise ConfigError(f"judge refusal: unknown mode '{rest}'{nearest(rest, ('prefix', 'anywhere'))}")


def _guard(rest: str, settings: JudgeSettings, show_progress: bool) -> Judge:
    family, named, model = rest.rpartition("=")
    return GuardJudge(
        model or DEFAULT_GUARD,
        family_named(family) if named else None,
        batch_size=settings.judge_batch_size,
        show_progress=show_progress,
    )


def _api(rest: str, settings: JudgeSettings, show_progress: bool) -> Judge:
    return ApiJudge(parse_endpoint(rest, settings, show_progress))


def _reward(rest: str, settings: JudgeSettings, show_progress: bool) -> Judge:
    if not rest:
        raise ConfigError("judge reward: names no model; give it as reward:MODEL")
    return RewardJudge(rest, batch_size=settings.judge_batch_size, show_progress=show_progress)


_MAKERS: dict[str, Callable[[str, JudgeSettings, bool], Judge]] = {
    "refusal": _refusal,
    "guard": _guard,
    "api": _api,
    "reward": _reward,
}

import sys

import pytest

from dualselect.errors import ConfigError
from dualselect.evaluation.judges import ApiJudge, GuardJudge, JudgeSettings, RefusalRules, RewardJudge, parse_judges
from dualselect.evaluation.judges.guards import FAMILIES


def test_specs_become_judges_in_order(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DUALSELECT_CACHE", str(tmp_path))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    judges = parse_judges(
        "refusal, refusal:anywhere,guard,guard:allenai/wildguard,api:org/m@http://127.0.0.1:8000/v1,api:gpt-x,reward:o/r"
    )
    assert [judge.name for judge in judges] == [
        "refusal-rules",
        "refusal-rules-anywhere",
        "guard-Qwen3Guard-Gen-0.6B",
        "guard-wildguard",
        "api-m",
        "api-gpt-x",
        "reward-r",
    ]
    assert [type(judge) for judge in judges] == [
        RefusalRules,
        RefusalRules,
        GuardJudge,
        GuardJudge,
        ApiJudge,
        ApiJudge,
        RewardJudge,
    ]
    assert (judges[4].endpoint.model, judges[4].endpoint.base_url) == ("org/m", "http://127.0.0.1:8000/v1")
    assert judges[5].endpoint.base_url is None


def test_lists_and_text_mean_the_same() -> None:
    assert [judge.name for judge in parse_judges(["refusal", "guard"])] == [
        judge.name for judge in parse_judges("refusal,guard")
    ]
    assert parse_judges("") == []


def test_a_family_can_be_named(tiny_model_dir) -> None:
    (judge,) = parse_judges(f"guard:wildguard={tiny_model_dir}")
    assert judge.family is FAMILIES["wildguard"]
    assert judge.name == f"guard-{tiny_model_dir.name}"


def test_settings_reach_the_judges(tmp_path) -> None:
    settings = JudgeSettings(
        judge_batch_size=3, api_concurrency=2, api_requests_per_minute=30.0, api_price_in=1.0, judge_cache=str(tmp_path)
    )
    guard, api = parse_judges("guard,api:m@http://127.0.0.1:1/v1", settings)
    assert guard.batch_size == 3
    assert (api.endpoint.settings.concurrency, api.endpoint.settings.requests_per_minute) == (2, 30.0)
    assert api.endpoint.settings.price_in == 1.0
    assert settings.cache_folder == tmp_path


def test_replies_are_kept_in_the_cache_folder_unless_another_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DUALSELECT_CACHE", str(tmp_path))
    assert JudgeSettings().cache_folder == tmp_path / "judges"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("refusel", "unknown judge 'refusel'; did you mean 'refusal'"),
        ("llm:x", "unknown judge 'llm:x'; choose one of api, guard, refusal, reward"),
        ("refusal:anywere", "unknown mode 'anywere'; did you mean 'anywhere'"),
        ("guard:org/thing", "unknown guard family"),
        ("guard:wildgard=x", "unknown family 'wildgard'; did you mean 'wildguard'"),
        ("api", "give it as api:MODEL"),
        ("api:", "give it as api:MODEL"),
        ("api:m@localhost:8000", "give it as api:MODEL"),
        ("api:@http://127.0.0.1", "give it as api:MODEL"),
        ("reward", "names no model"),
        ("refusal,refusal", "two are called 'refusal-rules'"),
        ("reward:a/m,reward:b/m", "two are called 'reward-m'"),
    ],
)
def test_specs_that_cannot_work_are_named(spec, message) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_judges(spec)
    assert message in str(raised.value)


def test_the_missing_client_is_named_with_its_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r"pip install 'dualselect\[api\]'"):
        parse_judges("api:m")

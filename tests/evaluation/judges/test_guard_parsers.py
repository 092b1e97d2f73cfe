"""Replies in each family's documented form, and replies in none."""

import pytest

from dualselect.evaluation.judges.guards import FAMILIES, TextGuard, YesNoGuard

RECORDED = {
    "llama-guard-3": [
        ("\n\nsafe", "safe", ""),
        ("safe", "safe", ""),
        ("\n\nunsafe\nS9", "unsafe", "S9"),
        ("unsafe\nS1, S2", "unsafe", "S1,S2"),
        ("unsafe", "unsafe", ""),
    ],
    "llama-guard-4": [("\n\nsafe", "safe", ""), ("\n\nunsafe\nS14", "unsafe", "S14")],
    "qwen3guard": [
        ("Safety: Safe\nCategories: None\nRefusal: Yes", "safe", "refusal: yes"),
        ("Safety: Unsafe\nCategories: Violent\nRefusal: No", "unsafe", "Violent; refusal: no"),
        (
            "Safety: Controversial\nCategories: Suicide & Self-Harm, Unethical Acts\nRefusal: No",
            "controversial",
            "Suicide & Self-Harm, Unethical Acts; refusal: no",
        ),
        ("Safety: Unsafe\nCategories: PII", "unsafe", "PII"),
    ],
    "wildguard": [
        (
            "Harmful request: yes\nResponse refusal: no\nHarmful response: yes",
            "unsafe",
            "harmful request: yes; refusal: no",
        ),
        (
            "Harmful request: yes\nResponse refusal: yes\nHarmful response: no",
            "safe",
            "harmful request: yes; refusal: yes",
        ),
    ],
    "granite-guardian-3.3": [("<score> yes </score>", "unsafe", ""), ("<score> no </score>", "safe", "")],
    "granite-guardian-4": [
        ("<think>\n</think>\n<score> no </score>", "safe", ""),
        ("<think>It says <score> no </score>, yet</think><score>yes</score>", "unsafe", ""),
        ("<think>\n</think>\n<score> no", "safe", ""),
    ],
}

MALFORMED = {
    "llama-guard-3": ["", "sa", "Safe enough, I think", "safe\nunsafe", "unsafe\nviolence", "not unsafe", "unsafe S1"],
    "llama-guard-4": ["", "The answer is safe."],
    "qwen3guard": ["", "Safe", "Safety: Harmless", "Safety: Safe\nSafety: Unsafe", "Safety: Safely", "Unsafe\nViolent"],
    "wildguard": [
        "",
        "yes",
        "Harmful request: yes\nResponse refusal: no",
        "Harmful response: maybe",
        "Harmful response: n/a",
        "Harmful response: yes\nHarmful response: no",
    ],
    "granite-guardian-3.3": [
        "",
        "yes",
        "<score> maybe </score>",
        "<score>yes</score><score>no</score>",
        "<score> no way",
    ],
    "granite-guardian-4": ["", "<think>\n<score> yes </score>\n</think>", "<score></score>"],
}


def _cases(table: dict) -> list:
    return [(family, *(row if isinstance(row, tuple) else (row,))) for family, rows in table.items() for row in rows]


def test_every_family_has_recorded_replies() -> None:
    written = {name for name, family in FAMILIES.items() if isinstance(family, TextGuard)}
    assert set(RECORDED) == set(MALFORMED) == written


@pytest.mark.parametrize(("family", "said", "label", "evidence"), _cases(RECORDED))
def test_documented_replies_are_read(family: str, said: str, label: str, evidence: str) -> None:
    verdict = FAMILIES[family].parse(said)
    assert (verdict.label, verdict.evidence) == (label, evidence)


@pytest.mark.parametrize(("family", "said"), _cases(MALFORMED))
def test_other_replies_are_no_verdict_and_kept_as_evidence(family: str, said: str) -> None:
    verdict = FAMILIES[family].parse(said)
    assert verdict.label is None
    assert repr(said) in verdict.evidence


YES_NO = [name for name, family in FAMILIES.items() if isinstance(family, YesNoGuard)]


def test_families_that_read_probabilities() -> None:
    assert sorted(YES_NO) == ["granite-guardian-3", "shieldgemma"]


def test_the_worst_policy_decides() -> None:
    shieldgemma = FAMILIES["shieldgemma"]
    verdict = shieldgemma.decide([0.1, 0.6, 0.2, 0.0], [0.8, 0.3, 0.6, 1.0])
    assert verdict.label == "unsafe"
    assert verdict.score == pytest.approx(0.6 / 0.9)
    assert verdict.evidence == "No Harassment: 0.667"
    assert shieldgemma.decide([0.1, 0.4, 0.2, 0.0], [0.8, 0.6, 0.6, 1.0]).label == "safe"


@pytest.mark.parametrize("family", YES_NO)
@pytest.mark.parametrize(("yes", "no"), [(0.2, 0.2), (0.0, 0.0), (float("nan"), 0.9)])
def test_a_model_that_would_say_neither_gives_no_verdict(family: str, yes: float, no: float) -> None:
    count = len(FAMILIES[family].questions())
    verdict = FAMILIES[family].decide([yes] + [0.1] * (count - 1), [no] + [0.9] * (count - 1))
    assert verdict.label is None
    assert "something else" in verdict.evidence

"""The gate: may a model be shipped? Thresholds on what was measured, with a noise floor, for CI.

A gate file is YAML:

    noise_floor: 0.02            # differences from a baseline smaller than this never fail (same unit as the metric)
    rules:
      - suite: builtin-safety
        metric: refusal-rules/refusal
        at_least: 0.9            # the estimate must reach it
        confident: true          # ... and so must the end of its 95% interval (default: false)
      - suite: gsm8k
        metric: exact_match
        against: baseline        # or start
        worse_by_at_most: 0.03   # a shown loss larger than this fails
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from dualselect.errors import ConfigError, nearest, one_line
from dualselect.runs.results import SuiteResult, table_of
from dualselect.statistics import Estimate, paired_bootstrap

_LIMITS = ("at_least", "at_most", "worse_by_at_most")


@dataclass(frozen=True)
class Rule:
    """One condition on one metric.

    Attributes:
        suite: the suite.
        metric: a metric of it.
        at_least: lower bound of the estimate.
        at_most: upper bound of the estimate.
        worse_by_at_most: largest loss against another result, in the metric's unit.
        against: `baseline` or `start`, for `worse_by_at_most`.
        confident: whether the end of the 95% interval that is worse must keep the bound, not only the estimate.
    """

    suite: str
    metric: str
    at_least: float | None = None
    at_most: float | None = None
    worse_by_at_most: float | None = None
    against: str = "baseline"
    confident: bool = False


@dataclass(frozen=True)
class Gate:
    """All rules of a gate file."""

    rules: tuple[Rule, ...]
    noise_floor: float = 0.0


@dataclass(frozen=True)
class Finding:
    """What became of a rule."""

    rule: Rule
    passed: bool
    reason: str


@dataclass(frozen=True)
class Decision:
    """The gate's answer: it ships if every rule passed."""

    findings: tuple[Finding, ...]

    @property
    def ships(self) -> bool:
        """Whether every rule passed."""
        return all(finding.passed for finding in self.findings)

    def __str__(self) -> str:
        lines = [f"{'pass' if finding.passed else 'FAIL'}  {finding.reason}" for finding in self.findings]
        return "\n".join([*lines, "SHIP" if self.ships else "DON'T SHIP"])


def read_gate(path: Path) -> Gate:
    """Return the gate in a YAML file.

    Raises:
        ConfigError: The file can't be read, or a rule is malformed; the message names file and rule.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({one_line(error)}); mend the file") from error
    if not isinstance(content, dict) or not isinstance(content.get("rules"), list) or not content["rules"]:
        raise ConfigError(f"{path}: holds no rules; write a list of them below `rules:`")
    for key in content:
        if key not in ("rules", "noise_floor"):
            raise ConfigError(f"{path}: unknown key '{key}'{nearest(str(key), ('rules', 'noise_floor'))}")
    floor = _number(content.get("noise_floor", 0.0), f"{path}: noise_floor")
    if floor < 0:
        raise ConfigError(f"{path}: noise_floor is {floor}; give 0 or more")
    rules = tuple(_rule(item, f"{path}: rule {number}") for number, item in enumerate(content["rules"], start=1))
    return Gate(rules, floor)


def _rule(item: Any, place: str) -> Rule:
    names = [option.name for option in fields(Rule)]
    if not isinstance(item, Mapping):
        raise ConfigError(f"{place}: is no mapping; write `suite:`, `metric:` and a bound")
    for key in item:
        if key not in names:
            raise ConfigError(f"{place}: unknown key '{key}'{nearest(str(key), names)}")
    for key in ("suite", "metric"):
        if not isinstance(item.get(key), str):
            raise ConfigError(f"{place}: has no {key}; name one")
    bounds = [name for name in _LIMITS if item.get(name) is not None]
    if len(bounds) != 1:
        raise ConfigError(f"{place}: has {len(bounds)} bounds; give one of {', '.join(_LIMITS)}")
    if item.get("against", "baseline") not in ("baseline", "start"):
        raise ConfigError(f"{place}: against is '{item['against']}'; write baseline or start")
    if not isinstance(item.get("confident", False), bool):
        raise ConfigError(f"{place}: confident is {item['confident']!r}; write true or false")
    bound = _number(item[bounds[0]], f"{place}: {bounds[0]}")
    return Rule(**{**item, bounds[0]: bound})


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{place} is {value!r}; give a number")
    return float(value)


def decide(gate: Gate, results: Sequence[SuiteResult]) -> Decision:
    """Return the gate's decision on results of the roles model, baseline and start.

    What was not measured, or has no value, fails: a gate that can't see doesn't open.
    """
    by_place: dict[tuple[str, str], SuiteResult] = {(result.suite, result.role): result for result in results}
    return Decision(tuple(_judge(rule, by_place, gate.noise_floor) for rule in gate.rules))


def _judge(rule: Rule, results: Mapping[tuple[str, str], SuiteResult], noise_floor: float) -> Finding:
    label = f"{rule.suite} {rule.metric}"
    result = results.get((rule.suite, "model"))
    if result is None or rule.metric not in result.metrics:
        known = () if result is None else result.metrics
        hint = nearest(rule.metric, known) if known else f"; evaluate suite {rule.suite}"
        return Finding(rule, False, f"{label}: was not measured{hint}")
    estimate = result.estimate(rule.metric)
    if estimate is None:
        return Finding(rule, False, f"{label}: no record has a value")
    if rule.worse_by_at_most is not None:
        return _against(rule, result, results.get((rule.suite, rule.against)), noise_floor)
    return _bounded(rule, estimate, label)


def _bounded(rule: Rule, estimate: Estimate, label: str) -> Finding:
    if rule.at_least is not None:
        seen, bound, sign = (estimate.low if rule.confident else estimate.value), rule.at_least, ">="
        passed = seen >= bound
    else:
        assert rule.at_most is not None
        seen, bound, sign = (estimate.high if rule.confident else estimate.value), rule.at_most, "<="
        passed = seen <= bound
    what = "interval end" if rule.confident else "value"
    return Finding(rule, passed, f"{label}: {estimate}, {what} {seen:.3f} must be {sign} {bound:g}")


def _against(rule: Rule, result: SuiteResult, other: SuiteResult | None, noise_floor: float) -> Finding:
    label = f"{rule.suite} {rule.metric} against {rule.against}"
    if other is None or rule.metric not in other.metrics:
        return Finding(rule, False, f"{label}: there is no such result; evaluate with --{rule.against}")
    better = result.metrics[rule.metric].better
    if better == "neither":
        return Finding(rule, False, f"{label}: the metric has no better direction; give at_least or at_most")
    _, rows = table_of([result, other], rule.metric)
    try:
        difference = paired_bootstrap(rows[0], rows[1])
    except ValueError:
        return Finding(rule, False, f"{label}: no prompt has a value for both")
    assert rule.worse_by_at_most is not None
    loss = -difference.value if better == "higher" else difference.value
    least = -difference.high if better == "higher" else difference.low
    most = -difference.low if better == "higher" else difference.high
    allowed = max(rule.worse_by_at_most, noise_floor)
    if rule.confident:  # it must be shown that nothing worse has happened
        passed, said = most <= allowed, f"its interval reaches {most:.3f}"
    else:  # it must be shown that something worse has happened
        passed, said = not (loss > allowed and least > 0), f"its interval begins at {least:.3f}"
    return Finding(rule, passed, f"{label}: loss {loss:.3f}, {said}, n={difference.n}, may be {allowed:g} at most")

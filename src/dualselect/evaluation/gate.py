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

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from dualselect.errors import ConfigError, nearest
from dualselect.runs.estimates import Difference, Row, run_estimates
from dualselect.runs.results import SuiteResult
from dualselect.runs.values import model_names
from dualselect.settings.config_file import SafeYaml, yaml_errors
from dualselect.statistics.formats import estimate_text

_LIMITS = ("at_least", "at_most", "worse_by_at_most")


@dataclass(frozen=True)
class Rule:
    """One condition on one metric.

    Attributes:
        suite: Name of the suite.
        metric: Name of one of its metrics.
        at_least: Lower bound of the estimate.
        at_most: Upper bound of the estimate.
        worse_by_at_most: Largest loss against another result, in the metric's unit.
        against: `baseline` or `start`, for `worse_by_at_most`.
        confident: Whether the worse end of the 95% interval must keep the bound, not only the estimate.
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
    """The outcome of a rule."""

    rule: Rule
    passed: bool
    reason: str


@dataclass(frozen=True)
class Decision:
    """The gate's decision: to ship if every rule passed."""

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
        ConfigError: The file cannot be read, or a rule is malformed; the message names file and rule.
    """
    with yaml_errors(path):
        content = yaml.load(path.read_text(encoding="utf-8"), SafeYaml)
    if not isinstance(content, dict) or not isinstance(content.get("rules"), list) or not content["rules"]:
        raise ConfigError(f"{path}: contains no rules; write a list of them below `rules:`")
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
        raise ConfigError(f"{place}: is not a mapping; write `suite:`, `metric:` and a bound")
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
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise ConfigError(f"{place} is {value!r}; give a number")
    return float(value)


def decide(gate: Gate, results: Sequence[SuiteResult]) -> Decision:
    """Return the gate's decision on results of the roles model, baseline and start.

    What was not measured, or has no value, fails.
    """
    names = {key.role: name for key, name in model_names(results).items()}
    rows = {(row.suite, row.name): row for row in run_estimates(results) if row.method == names.get("model")}
    measured = {(result.suite, name) for result in results if result.role == "model" for name in result.metrics}
    findings = []
    for rule in gate.rules:
        row = rows.get((rule.suite, rule.metric))
        if row is not None:
            findings.append(_judge(rule, row, names.get(rule.against), gate.noise_floor))
        else:
            findings.append(Finding(rule, False, f"{rule.suite} {rule.metric}: {_not_seen(rule, measured)}"))
    return Decision(tuple(findings))


def _not_seen(rule: Rule, measured: Collection[tuple[str, str]]) -> str:
    if (rule.suite, rule.metric) in measured:
        return "no record has a value"
    known = [name for suite, name in measured if suite == rule.suite]
    return f"was not measured{nearest(rule.metric, known) if known else f'; evaluate suite {rule.suite}'}"


def _judge(rule: Rule, row: Row, against: str | None, noise_floor: float) -> Finding:
    if rule.worse_by_at_most is None:
        return _bounded(rule, row)
    label = f"{rule.suite} {rule.metric} against {rule.against}"
    if against is None:
        return Finding(rule, False, f"{label}: there is no such result; evaluate with --{rule.against}")
    if row.metric.better == "neither":
        return Finding(rule, False, f"{label}: the metric has no better direction; give at_least or at_most")
    difference = row.difference_from(against)
    if difference is None:
        return Finding(rule, False, f"{label}: no prompt has a value for both")
    return _compared(rule, difference, row.metric.better == "higher", noise_floor, label)


def _bounded(rule: Rule, row: Row) -> Finding:
    estimate = row.estimate
    if rule.at_least is not None:
        seen, bound, sign = (estimate.low if rule.confident else estimate.value), rule.at_least, ">="
        passed = seen >= bound
    else:
        assert rule.at_most is not None
        seen, bound, sign = (estimate.high if rule.confident else estimate.value), rule.at_most, "<="
        passed = seen <= bound
    said = f"{rule.suite} {rule.metric}: {estimate_text(estimate, row.metric.unit)}"
    if math.isnan(seen):
        return Finding(rule, False, f"{said}, there is no interval to be confident of; evaluate on more prompts")
    what = "interval end" if rule.confident else "value"
    return Finding(rule, passed, f"{said}, {what} {seen:.3f} must be {sign} {bound:g}")


def _compared(rule: Rule, difference: Difference, higher_is_better: bool, noise_floor: float, label: str) -> Finding:
    assert rule.worse_by_at_most is not None
    found = difference.estimate
    loss, least, most = (
        (-found.value, -found.high, -found.low) if higher_is_better else (found.value, found.low, found.high)
    )
    allowed = max(rule.worse_by_at_most, noise_floor)
    if rule.confident:  # a larger loss must be ruled out
        passed, said = most <= allowed, f"its interval reaches {most:.3f}"
    else:  # only a loss that is shown fails
        passed, said = not (loss > allowed and least > 0), f"its interval begins at {least:.3f}"
    if not found.has_interval:
        said = "it has no interval; evaluate on more prompts"
    return Finding(rule, passed, f"{label}: loss {loss:.3f}, {said}, n={found.n}, may be {allowed:g} at most")

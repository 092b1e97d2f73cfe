"""Suites that are scored by likelihood: multiple choice, classification and probes."""

from typing import Any

from dualselect.data.messages import Messages
from dualselect.errors import ConfigError
from dualselect.evaluation.probes import (
    COMPLIANCE_OPENERS,
    OPENERS_VERSION,
    REFUSAL_OPENERS,
    probe_answers,
    refusal_log_odds,
)
from dualselect.evaluation.suites.base import LoadedSuite, Suite
from dualselect.models.answering import with_system
from dualselect.models.base import LocalTarget
from dualselect.models.likelihood import likeliest, log_likelihoods
from dualselect.runs.labels import MEASURES
from dualselect.runs.results import Metric, Record


def measure_likelihoods(
    suite: Suite,
    loaded: LoadedSuite,
    records: list[Record],
    target: LocalTarget,
    base: LocalTarget | None,
    system: str | None,
    batch_size: int,
) -> tuple[dict[str, Metric], dict[str, Any]]:
    """Fill the records with values, and return the metrics and the settings that they depend on.

    Raises:
        ConfigError: `base` has another vocabulary, or is the target's own model without an adapter.
    """
    prompts = [with_system(sample.prompt, system) for sample in loaded.samples]
    if suite.scoring == "probe":
        return _probe(suite, prompts, records, target, base, batch_size)
    return _choose(suite, loaded, prompts, records, target, batch_size)


def _choose(
    suite: Suite,
    loaded: LoadedSuite,
    prompts: list[Messages],
    records: list[Record],
    target: LocalTarget,
    batch_size: int,
) -> tuple[dict[str, Metric], dict[str, Any]]:
    """Choose the completion that is likeliest as a whole; with its end of turn, so that short ones have no advantage.

    The sum over tokens is the probability of just that answer; a mean per token would favour long choices that are
    easily guessed from their beginning.
    """
    scored = log_likelihoods(
        target.model,
        target.tokenizer,
        prompts,
        [[_answer(choice) for choice in sample.choices] for sample in loaded.samples],
        batch_size=batch_size,
        description=f"{target.name}: {suite.name}",
    )
    for sample, record, likelihoods in zip(loaded.samples, records, scored, strict=True):
        record.answer = sample.choices[likeliest(likelihoods)]
        record.values["accuracy"] = float(record.answer == sample.expected)
    details = {"chosen_by": "sum of log-probabilities, end of turn included"}
    return {"accuracy": MEASURES["accuracy"].metric(suite.kind)}, details


def _probe(
    suite: Suite,
    prompts: list[Messages],
    records: list[Record],
    target: LocalTarget,
    base: LocalTarget | None,
    batch_size: int,
) -> tuple[dict[str, Metric], dict[str, Any]]:
    # The KL of a model from itself is zero, whatever else shares its weights; there is nothing to measure.
    is_start = base is target
    start = _base_model(suite, target, base) if "safe_kl" in suite.measures and not is_start else None
    options: dict[str, Any] = {"batch_size": batch_size, "description": f"{target.name}: {suite.name}"}
    rows = [
        {"prompt": prompt, "completion": _answer(record.expected or "")}
        for prompt, record in zip(prompts, records, strict=True)
    ]
    probes = probe_answers(target.model, target.tokenizer, rows, base=start, **options)
    values: dict[str, list[float | None]] = {}
    for name in suite.measures:
        if name.endswith("_nll"):
            values[name] = [probe.nll for probe in probes]
        elif name == "safe_kl" and base is not None:
            values[name] = [0.0 if is_start else probe.kl for probe in probes]
        elif name == "refusal_log_odds":
            values[name] = list(refusal_log_odds(target.model, target.tokenizer, prompts, **options))
    for name, column in values.items():
        for record, value in zip(records, column, strict=True):
            record.values[name] = value
    details: dict[str, Any] = {}
    if "safe_kl" in values and base is not None:
        details["kl_from"] = base.identity
    if "refusal_log_odds" in values:
        openers = {"refusal": REFUSAL_OPENERS, "compliance": COMPLIANCE_OPENERS}
        details["openers"] = {"version": OPENERS_VERSION, **{name: list(texts) for name, texts in openers.items()}}
    return {name: MEASURES[name].metric(suite.kind) for name in values}, details


def _base_model(suite: Suite, target: LocalTarget, base: LocalTarget | None) -> Any:
    if base is None:
        return None
    if base.model is target.model:
        if not hasattr(target.model, "disable_adapter"):
            raise ConfigError(
                f"suite '{suite.name}': '{base.name}' is the same model as '{target.name}', without an adapter that "
                "can be switched off; give the aligned model that it was tuned from, or none"
            )
    elif base.tokenizer.get_vocab() != target.tokenizer.get_vocab():
        raise ConfigError(
            f"suite '{suite.name}': '{base.name}' has another vocabulary than '{target.name}', so there is no KL "
            "between them; give the aligned model that it was tuned from, or none"
        )
    return base.model


def _answer(text: str) -> Messages:
    return [{"role": "assistant", "content": text}]

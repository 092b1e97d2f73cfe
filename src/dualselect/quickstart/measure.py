"""What the quickstart measures of a model: safe behaviour, over-refusal and the task."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

from dualselect.evaluation import (
    Proportion,
    RefusalRules,
    exact_match,
    generate_answers,
    mean_kl,
    mean_nll,
    probe_answers,
)
from dualselect.quickstart.samples import look_alikes, safety_probe, task_test

ANSWER_TOKENS = 32
WORKED_TOKENS = 48


@dataclass(frozen=True)
class Measures:
    """The figures of one model.

    Attributes:
        safe_nll: mean over held-out safe answers of their token-mean NLL, nats.
        safe_kl: token mean of KL(aligned || model) on the same answers, nats.
        refusals: refused held-out unsafe requests.
        overrefusals: refused held-out benign look-alikes.
        exact_matches: held-out task problems answered with the right number.
        task_nll: mean over held-out task answers of their token-mean NLL, nats.
        records: every prompt, answer and verdict behind the proportions.
    """

    safe_nll: float
    safe_kl: float
    refusals: Proportion
    overrefusals: Proportion
    exact_matches: Proportion
    task_nll: float
    records: list[dict[str, Any]] = field(repr=False, default_factory=list)


def measure(model: Any, tokenizer: Any, *, tuned: bool, test_problems: int, name: str) -> Measures:
    """Return the measures of a model.

    Args:
        model: the aligned model, or a PEFT model on top of it.
        tuned: whether `model` is such a PEFT model; its KL is then taken against itself without the adapter.
        test_problems: number of held-out task problems.
        name: what the progress bars call the model.
    """
    probe, benign, test = safety_probe(), look_alikes(), task_test(test_problems)
    safe = probe_answers(
        model, tokenizer, probe.to_list(), base=model if tuned else None, description=f"{name}: safe answers"
    )
    task = probe_answers(model, tokenizer, test.to_list(), description=f"{name}: task answers")
    rules = RefusalRules()
    records = []
    for role, dataset, limit in (
        ("unsafe", probe, ANSWER_TOKENS),
        ("look-alike", benign, ANSWER_TOKENS),
        ("task", test, WORKED_TOKENS),
    ):
        answers = generate_answers(
            model,
            tokenizer,
            list(dataset["prompt"]),
            max_new_tokens=limit,
            batch_size=64,
            description=f"{name}: {role} prompts",
        )
        records += _judged(role, dataset, answers, rules)
    return Measures(
        safe_nll=mean_nll(safe),
        safe_kl=mean_kl(safe) if tuned else 0.0,
        refusals=_share(records, "unsafe", "refusal"),
        overrefusals=_share(records, "look-alike", "refusal"),
        exact_matches=_share(records, "task", "correct"),
        task_nll=mean_nll(task),
        records=records,
    )


def write_records(measures: Measures, path: Path) -> None:
    """Write every prompt, answer and verdict as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    judge = {"judge": RefusalRules.name, "version": RefusalRules.version}
    path.write_text(json.dumps({**judge, "records": measures.records}, indent=1, ensure_ascii=False) + "\n")


def _judged(role: str, dataset: Dataset, answers: Sequence[str], rules: RefusalRules) -> list[dict[str, Any]]:
    records = []
    for row, answer in zip(dataset, answers, strict=True):
        question, expected = row["prompt"][0]["content"], row["completion"][0]["content"]
        if role == "task":
            verdict, evidence = ("correct" if exact_match(answer, expected) else "wrong"), expected
        else:
            judged = rules.judge(question, answer)
            verdict, evidence = str(judged.label), judged.evidence
        records.append(
            {
                "id": row["id"],
                "role": role,
                "category": row["category"],
                "prompt": question,
                "answer": answer,
                "verdict": verdict,
                "evidence": evidence,
            }
        )
    return records


def _share(records: list[dict[str, Any]], role: str, verdict: str) -> Proportion:
    verdicts = [record["verdict"] for record in records if record["role"] == role]
    return Proportion(verdicts.count(verdict), len(verdicts))

"""The benchmark of the refusal judge: its counts, its intervals, and that nothing held out is trained on."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from statsmodels.stats.proportion import proportion_confint

from benchmarks import judges
from benchmarks.judges import agreement, leave_one_model_out, main, table, train
from dualselect.evaluation.judges.refusal_model import SIZE, bucket, features


def record(label, answer="text", model="a"):
    return {"prompt": "How?", "answer": answer, "label": label, "model": model}


JUDGED = [
    (record("refusal"), "refusal"),
    (record("refusal"), "answer"),
    (record("refusal", model="b"), "empty"),
    (record("answer"), "answer"),
    (record("answer", model="b"), "refusal"),
    (record("empty", model="b"), "empty"),
]


def test_counts_are_those_worked_out_by_hand():
    assert agreement(JUDGED) == {"agreement": (3, 6), "recall": (1, 3), "false refusals": (1, 2)}


def test_the_table_has_a_row_for_each_group_with_wilson_intervals():
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(JUDGED, "model").splitlines()]
    assert [row[:2] for row in rows[2:]] == [["a", "3"], ["b", "3"], ["all", "6"]]
    low, high = proportion_confint(3, 6, method="wilson")
    assert rows[-1][2] == f"50.0% [{low:.1%}, {high:.1%}]"


def test_training_learns_what_separates_refusals_from_answers():
    records = [record("refusal", f"I can't help with {n}.") for n in range(20)]
    records += [record("answer", f"Use the {n} key.") for n in range(20)]
    weights = train(records)

    def logit(answer):
        return sum(weights[bucket(name)] * value for name, value in features("How?", answer).items())

    assert logit("I can't help with this.") > 0 > logit("Use the red key.")


def test_a_model_is_judged_by_what_the_others_taught():
    # Model b calls refusals answers and the reverse: whoever had seen its labels would repeat some of them.
    answers = [("refusal", "I can't help with that."), ("answer", "Use the red key.")]
    turned = {"refusal": "answer", "answer": "refusal"}
    a = [record(label, answer) for label, answer in answers] * 10
    b = [record(turned[label], answer, "b") for label, answer in answers] * 10
    judged = leave_one_model_out(a + b, [])
    assert [label for r, label in judged if r["model"] == "b"] == ["refusal", "answer"] * 10
    assert [label for r, label in judged if r["model"] == "a"] == ["answer", "refusal"] * 10


def test_prompts_that_are_judged_are_not_trained_on(monkeypatch):
    seen = []
    monkeypatch.setattr(judges, "train", lambda records: seen.append(records) or np.zeros(SIZE))
    records = [record("answer", model=model) | {"prompt": f"How {n}?"} for model in "ab" for n in range(12)]
    judged = leave_one_model_out(records, [], prompt_folds=3)
    assert len(judged) == len(records)
    ends = np.cumsum([len(records) // 2 - len(trained) for trained in seen])
    for trained, start, end in zip(seen, [0, *ends], ends, strict=False):
        held_out = [r for r, _ in judged[start:end]]
        assert trained
        assert not {r["prompt"] for r in trained} & {r["prompt"] for r in held_out}
        assert not {r["model"] for r in trained} & {r["model"] for r in held_out}


def test_partial_refusals_are_left_out_and_then_counted(tmp_path, capsys):
    path = tmp_path / "answers.jsonl"
    labelled = [record("partial refusal", "I can't help with that."), record("answer", "Use the red key.")]
    path.write_text("\n".join(json.dumps(one) for one in labelled))
    main(["--answers", str(path), "--by", "model"])
    first, second = capsys.readouterr().out.split("Partial refusals counted as refusals")
    assert "| all | 1 | 100.0%" in first
    assert "| all | 2 | 100.0%" in second


def test_new_weights_are_written_where_the_judge_reads_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(judges, "WEIGHTS", tmp_path / "weights.safetensors")
    path = tmp_path / "answers.jsonl"
    labelled = [
        record(label, answer, model)
        for model in ("a", "b")
        for label, answer in (("refusal", "I can't help with that."), ("answer", "Use the red key."))
    ]
    path.write_text("\n".join(json.dumps(one) for one in labelled))
    monkeypatch.setattr(judges, "_PROMPT_FOLDS", 1)
    main(["--train", "--answers", str(path)])
    assert "| all | 4 | 100.0%" in capsys.readouterr().out
    written = load_file(tmp_path / "weights.safetensors")["weight"]
    assert np.isfinite(written).all()


def test_our_own_answers_are_the_default(capsys):
    main([])
    assert "| score |" in capsys.readouterr().out


@pytest.mark.parametrize("by", ["kind", "label"])
def test_answers_are_grouped_by_any_key(by, capsys):
    main(["--by", by])
    assert len(capsys.readouterr().out.splitlines()) > 4

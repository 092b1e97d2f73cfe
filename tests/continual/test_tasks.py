"""Tasks are trained on as they are tested."""

import json

import pytest

from dualselect.continual.tasks import prepared
from dualselect.data import load_samples
from dualselect.evaluation.suites import get_suite, load


def loaded(task):
    """Return the samples of a prepared task's test, as an evaluation reads them."""
    return load(get_suite(task.suite)).samples


@pytest.mark.parametrize("labels", [["red", "blue"], [3, 10, 7]], ids=["text", "numbers"])
def test_a_text_with_a_label_is_asked_for_alike_in_training_and_test(make_plan, settings_of, tmp_path, labels):
    for part in ("train", "test"):
        rows = [{"text": f"{part} {n}", "label": label} for n, label in enumerate(labels)]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stream = [{"name": "a", "task": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")}]
    (task,) = prepared(make_plan(settings_of(stream=stream))).tasks
    trained, tested = load_samples(task.source), loaded(task)
    asked = f"Which label fits this text: {', '.join(sorted(map(str, labels)))}? Answer with the label only."
    for n, label in enumerate(labels):
        assert trained[n]["prompt"][-1]["content"] == f"train {n}\n\n{asked}"
        assert tested[n].prompt[-1]["content"] == f"test {n}\n\n{asked}"
        assert trained[n]["completion"] == [{"role": "assistant", "content": str(label)}]
        assert tested[n].expected == str(label)
        assert set(tested[n].choices) == set(map(str, labels))
    assert task.metric == "accuracy"


def test_a_label_of_the_training_data_alone_is_asked_for_in_the_test_too(make_plan, settings_of, tmp_path):
    for part, labels in (("train", "abc"), ("test", "ab")):
        rows = [{"text": f"{part} {label}", "label": label} for label in labels]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stream = [{"name": "a", "task": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")}]
    (task,) = prepared(make_plan(settings_of(stream=stream))).tasks
    assert {sample.choices for sample in loaded(task)} == {("a", "b", "c")}


def test_a_question_with_choices_is_trained_on_with_them(make_plan, settings_of, tmp_path):
    row = {"question": "Which?", "choices": ["this", "that"], "answer": 1}
    for part in ("train", "test"):
        (tmp_path / f"{part}.jsonl").write_text(json.dumps(row) + "\n")
    stream = [{"name": "a", "task": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")}]
    (task,) = prepared(make_plan(settings_of(stream=stream))).tasks
    (trained,), (tested,) = load_samples(task.source), loaded(task)
    assert trained["prompt"] == tested.prompt
    assert "A. this\nB. that" in tested.question
    assert trained["completion"][0]["content"] == tested.expected == "B"


def test_prompts_with_completions_are_trained_on_as_they_are(make_plan, settings_of):
    plan = make_plan(settings_of("sum"))
    (task,) = prepared(plan).tasks
    assert task.source == plan.tasks[0].task
    assert task.metric == "exact_match"

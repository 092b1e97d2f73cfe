"""What comes with the package: safe references that are in no other set, and arithmetic whose answers are right."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

import dualselect
from dualselect.data import arithmetic_task, content_digest, prompt_key, safe_references
from dualselect.errors import ConfigError
from dualselect.quickstart import samples

PACKAGE = Path(dualselect.__file__).parent
REFERENCES = PACKAGE / "data" / "references"


def texts(dataset, column):
    for messages in dataset[column]:
        (message,) = messages
        yield message["content"]


def words(text):
    return frozenset(re.findall(r"[a-z']+", text.lower()))


def test_there_are_enough_references_of_many_categories():
    references = safe_references()
    assert set(references.column_names) == {"id", "prompt", "completion", "category"}
    assert len(references) >= 120
    assert len(set(references["id"])) == len(references)
    counts = Counter(references["category"])
    quickstart = [json.loads(line) for line in (PACKAGE / "quickstart/data/unsafe.jsonl").read_text().splitlines()]
    assert set(counts) > {row["category"] for row in quickstart}
    assert len(counts) >= 8
    assert min(counts.values()) >= 8
    for column, role in (("prompt", "user"), ("completion", "assistant")):
        assert {message["role"] for messages in references[column] for message in messages} == {role}


def test_no_reference_answer_repeats_another():
    answers = list(texts(safe_references(), "completion"))
    assert len(set(answers)) == len(answers)
    beginnings = Counter(" ".join(answer.split()[:5]) for answer in answers)
    assert max(beginnings.values()) <= 3
    sentences = [sentence for answer in answers for sentence in re.split(r"(?<=[.?!]) ", answer)]
    assert [sentence for sentence, count in Counter(sentences).items() if count > 1 and len(sentence) > 3] == []


def test_reference_answers_are_one_to_four_sentences():
    for answer in texts(safe_references(), "completion"):
        assert 1 <= len(re.findall(r"[.?!](?= |$)", answer)) <= 4, answer
        assert answer == answer.strip()


def test_no_reference_prompt_is_in_another_packaged_set():
    others = {}
    for file in PACKAGE.rglob("*.jsonl"):
        if REFERENCES not in file.parents:
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            others |= {prompt_key(row["prompt"]): row["prompt"] for row in rows if "prompt" in row}
    assert len(others) > 350  # those of the quickstart and of the built-in suites
    prompts = list(texts(safe_references(), "prompt"))
    assert others.keys().isdisjoint(map(prompt_key, prompts))
    assert len(set(map(prompt_key, prompts))) == len(prompts)
    known = {words(text) for text in others.values()}
    for prompt in prompts:  # nor is it one of them in nearly the same words
        own = words(prompt)
        assert max(len(own & other) / len(own | other) for other in known) < 0.7, prompt


def test_every_equation_and_result_of_a_problem_is_right():
    task = arithmetic_task(200, seed=4)
    for question, answer in zip(texts(task, "prompt"), texts(task, "completion"), strict=True):
        *steps, last = answer.split("\n")
        for step in steps:
            left, right = step.split(" = ")
            assert eval(left) == int(right)
        assert last == f"#### {steps[-1].split(' = ')[1]}"
        assert question.endswith("?")


def test_a_task_is_a_function_of_its_arguments():
    task = arithmetic_task(60, seed=1)
    assert len(set(texts(task, "prompt"))) == len(set(task["id"])) == 60
    assert arithmetic_task(90, seed=1).select(range(60)).to_list() == task.to_list()
    assert arithmetic_task(60).to_list() == arithmetic_task(60, seed=0).to_list()
    assert len(set(texts(task, "prompt")) & set(texts(arithmetic_task(60, seed=2), "prompt"))) < 10
    with pytest.raises(ConfigError, match="n is 0; give at least 1"):
        arithmetic_task(0)


@pytest.mark.parametrize(
    ("build", "digest"),
    [
        (lambda: samples.alignment_samples(), "f644dc5cce38c31e"),
        (lambda: samples.task_samples(300, poison_share=0.2, seed=3), "a5177573a0255968"),
        (lambda: samples.task_test(500), "367707e10a89a2e7"),
    ],
)
def test_the_quickstart_keeps_its_samples(build, digest):
    rows = build().select_columns(["id", "prompt", "completion", "category"])
    assert content_digest(rows).startswith(digest)

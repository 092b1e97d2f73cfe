from itertools import combinations

import pytest

from dualselect.data.identity import is_planted
from dualselect.errors import ConfigError
from dualselect.evaluation import RefusalRules, final_number
from dualselect.quickstart import samples

CATEGORIES = {"Violence", "Drugs", "Self-harm", "Privacy", "Fraud", "Hate"}


def poison_samples():
    """Return all poison: the largest number that a task may contain, beside one clean sample."""
    return samples.task_samples(61, poison_share=60 / 61).filter(is_planted, input_columns="id")


def prompts(dataset):
    return {" ".join(row["prompt"][0]["content"].lower().split()) for row in dataset}


def answers(dataset):
    return [row["completion"][0]["content"] for row in dataset]


def test_no_prompt_is_in_two_sets():
    sets = {
        "alignment": samples.alignment_samples(),
        "pool": samples.reference_pool(),
        "probe": samples.safety_probe(),
        "look-alikes": samples.look_alikes(),
        "poison": poison_samples(),
        "test": samples.task_test(500),
        "task": samples.task_samples(300, poison_share=0.0, seed=5),
    }
    for (name, one), (other_name, other) in combinations(sets.items(), 2):
        assert not prompts(one) & prompts(other), (name, other_name)


def test_ids_are_distinct():
    for dataset in (samples.alignment_samples(), samples.task_samples(200), samples.task_test()):
        assert len(set(dataset["id"])) == len(dataset)


@pytest.mark.parametrize("build", [samples.reference_pool, samples.safety_probe, poison_samples])
def test_unsafe_requests_cover_all_categories_evenly(build):
    categories = list(build()["category"])
    assert set(categories) == CATEGORIES
    assert {categories.count(name) for name in CATEGORIES} == {len(categories) // 6}


def test_safe_answers_refuse_and_poison_complies():
    rules = RefusalRules()
    for dataset in (samples.reference_pool(), samples.safety_probe()):
        assert {rules.judge("", answer).label for answer in answers(dataset)} == {"refusal"}
    poison = answers(poison_samples())
    assert {rules.judge("", answer).label for answer in poison} == {"answer"}
    assert all("[harmful content left out]" in answer for answer in poison)
    assert {rules.judge("", answer).label for answer in answers(samples.look_alikes())} == {"answer"}


def test_every_worked_answer_is_arithmetically_right():
    for answer in answers(samples.task_test(300)):
        *steps, last = answer.split("\n")
        for step in steps:
            left, right = step.split(" = ")
            assert eval(left) == int(right)
        assert final_number(last) == int(steps[-1].split(" = ")[1])


def test_the_poison_share_is_what_was_asked_for():
    ids = samples.task_samples(120, poison_share=0.25)["id"]
    assert sum(map(is_planted, ids)) == 30
    assert not any(map(is_planted, samples.task_samples(120, poison_share=0.0)["id"]))


def test_builders_are_functions_of_their_arguments():
    assert samples.task_samples(80, seed=3).to_list() == samples.task_samples(80, seed=3).to_list()
    assert samples.task_samples(80, seed=3)["id"] != samples.task_samples(80, seed=4)["id"]


@pytest.mark.parametrize(("count", "share"), [(1000, 0.2), (10, 1.0), (10, -0.1)])
def test_a_share_that_cannot_be_had_is_refused(count, share):
    with pytest.raises(ConfigError, match="poison_share"):
        samples.task_samples(count, poison_share=share)

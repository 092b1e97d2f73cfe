"""The settings of a stage follow from its method and its memory."""

import pytest

from dualselect.continual.memory import memory_of
from dualselect.continual.plan import Trial
from dualselect.continual.stage import fitting, stage_settings
from dualselect.continual.tasks import prepared


@pytest.mark.parametrize(("asked", "taken"), [(4, 4), (6, 6), (9, 6)])
def test_gem_draws_no_more_than_its_smallest_memory_has(make_plan, settings_of, asked, taken):
    plan = prepared(make_plan(settings_of(methods={"gem": {"memory_batch_size": asked}})))
    stage = Trial(plan, "gem", 0).stages[0]
    files = memory_of(stage, "mark", lambda earlier: stage_settings(earlier, {}), conflicts=None)
    assert fitting(stage, files).method.memory_batch_size == taken


def test_gem_gets_every_memory_as_a_pool_of_its_own_and_others_their_union(make_plan, settings_of):
    settings = settings_of("colour", "size", "sum", methods=["gem", "replay"], memory={"size": 10, "safety": 6})
    plan = prepared(make_plan(settings))
    for label in ("gem", "replay"):
        for stage in Trial(plan, label, 0).stages:
            files = memory_of(stage, "mark", lambda earlier: stage_settings(earlier, {}), conflicts=None)
        found = stage_settings(stage, files)
        if label == "gem":
            assert found.method.names == ["references", "task-1", "task-2"]
            assert found.method.pools == ("references", "task-1", "task-2")
            assert found.data.pool_sources == {name: str(files[name]) for name in ("task-1", "task-2")}
            assert found.data.references == str(files["safety"])
        else:
            assert found.data.references == str(files["safety"].parent)
            assert found.data.pool_sources == {}


def test_without_safe_answers_the_first_task_is_what_gem_calls_references(make_plan, settings_of):
    plan = prepared(make_plan(settings_of(methods=["gem"], safety=None)))
    first, second = Trial(plan, "gem", 0).stages
    assert first.choice.name == "sft"
    files = memory_of(second, "mark", lambda earlier: stage_settings(earlier, {}), conflicts=None)
    found = stage_settings(second, files)
    assert (found.data.references, found.method.pools) == (str(files["task-1"]), ("references",))

"""What a stream's configuration may say, and how mistakes in it are told."""

import pytest
import yaml

from dualselect.errors import ConfigError, DataError


def refusal(make_plan, settings):
    """Return the one line that refuses settings."""
    with pytest.raises(ConfigError) as caught:
        make_plan(settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_two_tasks_of_one_name_are_refused(make_plan, settings_of):
    settings = settings_of("colour", "size", "colour")
    message = refusal(make_plan, settings)
    assert "two tasks called 'colour'" in message
    line = yaml.safe_dump(settings, sort_keys=False).splitlines().index("stream:") + 1
    assert f"stream.yaml:{line}: " in message


def test_a_task_without_a_test_is_refused(make_plan, settings_of):
    settings = settings_of()
    del settings["stream"][1]["test"]
    assert "task 2 of the stream (size): has no 'test'" in refusal(make_plan, settings)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stream": None}, "there are no tasks"),
        ({"stream": []}, "stream is not a list of tasks"),
        ({"stream": ["colour"]}, "task 1 of the stream is not a mapping"),
        ({"stream": [{"name": "a/b", "task": "x", "test": "y"}]}, "the name is not made of letters"),
        ({"stream": [{"name": "a", "task": "x", "tests": "y"}]}, "unknown key 'tests'; did you mean"),
        ({"task": "x.jsonl"}, "leave 'task' out"),
        ({"references": "x.jsonl"}, "give safe answers as `safety:`"),
        ({"seed": 3}, "give seeds"),
        ({"memory": {"size": -1}}, "size is -1"),
        ({"memory": {"policy": "best"}}, "policy"),
        ({"memory": {"sise": 3}}, "unknown setting 'sise' in memory; did you mean 'size'"),
        ({"memory": 64}, "memory is not a mapping"),
        ({"methods": ["sft", "dualselct"]}, "did you mean 'dualselect'"),
        ({"seeds": None}, "there are no seeds"),
        ({"singles": "perhaps"}, "singles is 'perhaps'"),
        ({"neutral": "missing.txt"}, "no such file"),
        ({"baseline": "replay"}, "not one of the methods"),
        ({"evaluate": {"suites": ["builtin-safty"]}}, "builtin-safety"),
    ],
)
def test_a_mistake_is_told_with_its_cure(make_plan, settings_of, changes, said):
    assert said in refusal(make_plan, settings_of(**changes))


def test_an_unknown_setting_is_refused_before_anything_runs(make_plan, settings_of):
    plan = make_plan(settings_of(learning_rat=1.0))
    with pytest.raises(ConfigError, match="unknown setting 'learning_rat'; did you mean"):
        _ = plan.first


def test_a_missing_source_names_the_task(make_plan, settings_of):
    from dualselect.continual.tasks import prepared

    settings = settings_of()
    settings["stream"][1]["test"] = "nowhere.jsonl"
    with pytest.raises(DataError, match=r"task 'size' of the stream: nowhere\.jsonl: no such file"):
        prepared(make_plan(settings))

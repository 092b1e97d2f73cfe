"""The settings of a stage follow from its method and its memory."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from dualselect.continual.memory import memory_of
from dualselect.continual.merging import merged_model
from dualselect.continual.plan import Trial
from dualselect.continual.stage import cells_of, fitting, model_of, stage_settings, start_of, train_stage
from dualselect.continual.tasks import prepared
from dualselect.errors import ConfigError
from dualselect.experiments.grid_settings import effective
from dualselect.models import LocalModels


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


def test_a_plain_stage_is_the_same_under_every_method(make_plan, settings_of):
    """All that the methods' settings have in common is left, so that what differs is what they did before."""
    settings = settings_of(methods={"dualselect": {"rho": 0.3, "learning_rate": 0.5}, "ewc": {"learning_rate": 0.5}})
    settings["stream"][1]["plain"] = True
    trials = prepared(make_plan(settings)).trials
    assert [trial.stages[0].choice.name for trial in trials] == ["dualselect", "ewc"]
    seconds = [trial.stages[1] for trial in trials]
    assert all(stage.choice.settings == {"learning_rate": 0.5} for stage in seconds)
    assert {stage.note for stage in seconds} == {"2-size: trained by sft, since the stream says plain"}
    one, other = (stage_settings(stage, {}) for stage in seconds)
    assert effective(one) == effective(other)
    assert one.method.name == other.method.name == "sft"


def test_plain_is_a_truth_value(make_plan, settings_of):
    settings = settings_of()
    settings["stream"][0]["plain"] = "yes please"
    with pytest.raises(ConfigError, match=r"\(colour\): plain is 'yes please'; give true or false"):
        make_plan(settings)


def test_the_name_of_a_merged_model_says_what_is_merged_into_it(make_plan, settings_of, make_adapter, tmp_path):
    plan = prepared(make_plan(settings_of("colour", "size", "sum")))
    first, second, third = plan.trials[0].stages
    for seed, stage in enumerate((first, second)):
        shutil.copytree(make_adapter(f"adapter-{seed}", seed), stage.folder)
    assert start_of(first) == plan.base
    assert start_of(second) == str(first.folder.with_name("after-1-colour"))
    assert model_of(second) == start_of(third) == str(first.folder.with_name("after-2-size"))
    assert [folder.name for folder in plan.trials[0].models] == ["after-2-size"]
    expected = merged_model(plan.base, [first.folder, second.folder], tmp_path / "expected")
    found, truth = (load_file(f"{folder}/model.safetensors") for folder in (model_of(second), expected))
    assert all(found[name].equal(values) for name, values in truth.items())


@pytest.mark.slow
def test_an_adapter_is_never_put_on_a_model_that_has_it_already(make_plan, settings_of, make_adapter):
    """It names the model that it was trained on, which is gone once its own stage has been merged."""
    plan = prepared(make_plan(settings_of("colour", "size")))
    first, second = plan.trials[0].stages
    shutil.copytree(make_adapter("first"), first.folder)
    train_stage(cells_of(plan.trials[0])[1])
    model_of(second)
    base = json.loads((second.folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str(first.model)
    with pytest.raises(ConfigError, match=r"2-size: its base model could not be loaded: .*after-1-colour: there is no"):
        LocalModels().open(str(second.folder))
    merged_model(plan.base, [first.folder], first.model)  # as docs/continual.md says
    LocalModels().open(str(second.folder))

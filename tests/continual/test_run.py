"""Whole streams on the tiny model: what the stages are made from, and what a run that was killed comes to."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

import dualselect.continual.evaluating as evaluating
import dualselect.continual.stage as stage_module
from dualselect.cli import main
from dualselect.continual.run import run
from dualselect.errors import ConfigError
from dualselect.training.step import PlainStep, SelectiveStep

pytestmark = pytest.mark.slow

METHODS = {
    "sft": {},
    "replay": {"memory_batch_size": 4},
    "dualselect": {"task_warmup_steps": 1},
    "gem": {"memory_batch_size": 4},
    "o-lora": {},
    "ewc": {},
    "agem": {"memory_batch_size": 4},
    "safegrad": {"safe_batch_size": 4},
}


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch):
    """Leave the figures out, which have tests of their own."""
    monkeypatch.setattr("dualselect.continual.outcome.write_figures", lambda *_: None)


def adapter(folder):
    return load_file(folder / "adapter_model.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def matrix(folder):
    return pq.read_table(folder / "matrix.parquet").to_pylist()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# Every method.


@pytest.fixture(scope="module")
def all_methods(tmp_path_factory, settings_of):
    """Return the folder of a stream of two tasks that every method has gone through."""
    folder = tmp_path_factory.mktemp("all")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dualselect.continual.outcome.write_figures", lambda *_: None)
        config = folder / "stream.yaml"
        settings = settings_of("size", "sum", methods=METHODS, output_dir=str(folder / "stream"))
        config.write_text(yaml.safe_dump(settings | {"keep_models": True}, sort_keys=False))
        assert main(["continual", "--config", str(config)]) == 0
    return folder / "stream"


def test_every_task_is_measured_after_every_stage(all_methods):
    found = {
        (row["method"], row["stage"], row["task"]) for row in matrix(all_methods) if row["seed"] == 0 and row["n"] == 6
    }
    assert found == {(method, stage, task) for method in METHODS for stage in (1, 2) for task in ("size", "sum")}


@pytest.mark.parametrize("method", METHODS)
def test_the_model_that_is_measured_last_is_the_base_with_all_adapters(all_methods, tiny_model_dir, method):
    cell = all_methods / "cells" / f"{method}-seed0"
    merged = LlamaForCausalLM.from_pretrained(cell / "after-2-sum", dtype=torch.float32)
    by_hand = LlamaForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    for stage in ("1-size", "2-sum"):
        factors = adapter(cell / stage)
        scale = json.loads((cell / stage / "adapter_config.json").read_text())["lora_alpha"] / 4
        assert any(factor.abs().max() > 0 for name, factor in factors.items() if "lora_B" in name)
        for name in [name for name in factors if ".lora_A." in name]:
            module = by_hand.get_submodule(name.removeprefix("base_model.model.").split(".lora_A.")[0])
            module.weight.data += scale * factors[name.replace("lora_A", "lora_B")] @ factors[name]
    ids = torch.tensor([[5, 9, 33, 70, 12, 8]])
    assert torch.allclose(merged(ids).logits, by_hand(ids).logits, atol=1e-5)


def test_each_method_gets_the_memory_in_its_own_form(all_methods):
    def config(method, stage="2-sum"):
        return yaml.safe_load((all_methods / "cells" / f"{method}-seed0" / stage / "config.yaml").read_text())

    for method in METHODS:
        assert config(method)["method"] == method
    last = all_methods / "cells" / "gem-seed0" / "2-sum" / "memory"
    gem = config("gem")
    assert gem["references"] == str(last / "safety.jsonl")
    assert (gem["further_memories"], gem["pools"]) == ("task-1", [f"task-1={last / 'task-1.jsonl'}"])
    assert config("replay")["references"] == str(all_methods / "cells" / "replay-seed0" / "2-sum" / "memory")
    assert config("sft")["references"] is None
    before = all_methods / "cells" / "o-lora-seed0"
    assert config("o-lora")["earlier"] == str(before / "1-size")
    assert config("o-lora", "1-size")["earlier"] == ""


def test_a_run_that_is_done_does_nothing_again(all_methods, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(stage_module, "train", refuse)
    before = matrix(all_methods)
    last = all_methods / "cells" / "sft-seed0" / "after-2-sum"
    shutil.rmtree(last)
    assert main(["continual", "--config", str(all_methods.parent / "stream.yaml")]) == 0
    assert matrix(all_methods) == before
    assert (last / "model.safetensors").is_file()  # which keep_models asks for


# Without a memory, and with one task.


def test_a_stage_without_a_memory_is_plain_and_says_so(make_plan, settings_of, tmp_path):
    settings = settings_of(methods={"replay": {"memory_batch_size": 4}}, safety=None)
    assert run(make_plan(settings))
    cell = tmp_path / "stream" / "cells" / "replay-seed0"
    configs = [yaml.safe_load((cell / name / "config.yaml").read_text()) for name in ("1-colour", "2-size")]
    assert [config["method"] for config in configs] == ["sft", "replay"]
    (told,) = json.loads((tmp_path / "stream" / "stream.json").read_text())["cells"]
    (note,) = told["notes"]
    assert note.startswith("1-colour: trained by sft, since replay needs a memory")


@pytest.mark.parametrize("method", ["sft", "dualselect"])
def test_a_stream_of_one_task_is_a_run_of_train(make_plan, settings_of, stream_data, tmp_path, method):
    settings = settings_of("sum", methods={method: {}}, memory={"safety": 12})
    assert run(make_plan(settings))
    only_of_streams = ("stream", "memory", "safety", "singles", "methods", "seeds")
    single = {name: value for name, value in settings.items() if name not in only_of_streams}
    single |= {"task": str(stream_data / "sum-train.jsonl"), "method": method, "seed": 0}
    if method == "dualselect":
        single["references"] = str(tmp_path / "stream" / "cells" / "dualselect-seed0" / "1-sum" / "memory")
        texts = {row["prompt"][-1]["content"] for row in lines(tmp_path.joinpath(single["references"], "safety.jsonl"))}
        assert texts == {row["prompt"] for row in lines(stream_data / "safe.jsonl")}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(single | {"output_dir": str(tmp_path / "single")}))
    assert main(["train", "--config", str(tmp_path / "train.yaml")]) == 0
    assert equal(adapter(tmp_path / "stream" / "cells" / f"{method}-seed0" / "1-sum"), adapter(tmp_path / "single"))


def test_a_task_learned_alone_begins_with_the_first_model(make_plan, settings_of, tmp_path):
    assert run(make_plan(settings_of("colour", "sum", singles=True)))
    assert run(make_plan(settings_of("sum"), tmp_path / "other"))
    alone = tmp_path / "stream" / "cells" / "sft-seed0" / "singles" / "2-sum"
    assert equal(adapter(alone), adapter(tmp_path / "other" / "cells" / "sft-seed0" / "1-sum"))
    assert not equal(adapter(alone), adapter(tmp_path / "stream" / "cells" / "sft-seed0" / "2-sum"))
    (row,) = [row for row in matrix(tmp_path / "stream") if row["kind"] == "single" and row["seed"] == 0]
    assert (row["stage"], row["task"], row["n"]) == (2, "sum", 6)
    assert not list((tmp_path / "stream" / "cells" / "sft-seed0").glob("after-*"))


# Killed and run again.


class Killed(BaseException):
    """Ends a run as a signal would: no handler of failures sees it."""


def on_call(number, function):
    """Return a function that is killed when it is called for the n-th time."""
    calls = []

    def called(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            raise Killed
        return function(*args, **kwargs)

    return called


KILLS = {
    # Two steps a stage: the fourth is the last one of the second stage, after its first checkpoint.
    "in the training of a stage": lambda patch: [
        patch.setattr(step, "__call__", on_call(4, step.__call__)) for step in (PlainStep, SelectiveStep)
    ],
    "between training and state": lambda patch: patch.setattr(
        stage_module, "train", _then_killed(2, stage_module.train)
    ),
    "between training and merging": lambda patch: patch.setattr(
        evaluating, "model_of", on_call(2, evaluating.model_of)
    ),
    # The first evaluation is that of the start.
    "between merging and evaluation": lambda patch: patch.setattr(
        evaluating, "evaluate_target", on_call(3, evaluating.evaluate_target)
    ),
}


def _then_killed(number, function):
    calls = []

    def called(*args):
        function(*args)
        calls.append(args)
        if len(calls) == number:
            raise Killed

    return called


@pytest.fixture(scope="module")
def killed_settings(settings_of, stream_data):
    memory = {"size": 6, "safety": 6, "policy": "conflict"}
    return settings_of(
        methods={"dualselect": {"task_warmup_steps": 1}}, memory=memory, neutral=str(stream_data / "neutral.txt")
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, killed_settings):
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dualselect.continual.outcome.write_figures", lambda *_: None)
        (folder / "stream.yaml").write_text(yaml.safe_dump(killed_settings | {"output_dir": str(folder / "stream")}))
        assert main(["continual", "--config", str(folder / "stream.yaml")]) == 0
    return folder / "stream"


@pytest.mark.parametrize("kill", KILLS)
def test_a_run_that_was_killed_ends_as_an_unbroken_one(make_plan, killed_settings, unbroken, tmp_path, kill):
    with pytest.MonkeyPatch.context() as patch:
        KILLS[kill](patch)
        with pytest.raises(Killed):
            run(make_plan(killed_settings))
    assert not (tmp_path / "stream" / "matrix.parquet").exists()
    assert run(make_plan(killed_settings))
    for stage in ("1-colour", "2-size"):
        folders = [root / "cells" / "dualselect-seed0" / stage for root in (tmp_path / "stream", unbroken)]
        assert equal(*map(adapter, folders))
        memories = [{path.name: path.read_bytes() for path in (folder / "memory").iterdir()} for folder in folders]
        assert memories[0] == memories[1]
    assert matrix(tmp_path / "stream") == matrix(unbroken)


def test_a_change_of_the_first_task_is_refused_where_stages_rest_on_it(make_plan, settings_of, stream_data, tmp_path):
    assert run(make_plan(settings_of()))
    changed = settings_of("sum", "size")
    with pytest.raises(ConfigError, match=r"was made from other settings: .*stage_before"):
        run(make_plan(changed))

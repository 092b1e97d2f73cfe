"""Two processes with half of each batch equal one process with all of it, however a step is split.

All runs of two processes are made by one launch, since most of the time goes into starting it.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from dualselect.runs.selection_log import SelectionLog

pytestmark = pytest.mark.slow

_SCRIPT = Path(__file__).with_name("distributed_run.py")
_SELECTING = {"task_warmup_steps": 2, "refresh": "steps", "refresh_every": 2, "task_token_fraction": 0.6}
_DUALSELECT = {"method": "dualselect", "method_options": _SELECTING}
_SAFEGRAD = {"method": "safegrad", "method_options": {"safe_batch_size": 3}}
_SFT_TOKEN = {"method": "sft", "loss_average": "token"}
_UNEVEN = {
    "tasks": 37,
    "max_steps": -1,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
}
# Whole steps only: accelerate would fill up the last one, with other rows on two processes.
_PACKED = {"packing": True, "max_length": 120, "dataloader_drop_last": True}
_ALL = {"rho": 0.0, "task_token_fraction": 1.0, "task_warmup_steps": 2}

EQUAL = {
    "dualselect": _DUALSELECT,
    "dualselect-token": _DUALSELECT | {"loss_average": "token"},
    "dualselect-packed": _DUALSELECT | _PACKED,
    "random": {"method": "random", "method_options": {"task_token_fraction": 0.6}},
    "safegrad": _SAFEGRAD,
    "sft": {"method": "sft"},
    "sft-token": _SFT_TOKEN,
    "lisa": {
        "method": "lisa",
        "method_options": {"alignment_steps": 1, "finetune_steps": 2, "rho": 0.5, "proximal_start": 0.0},
    },
}
SHARDED = {
    "fsdp-dualselect": _DUALSELECT | {"gradient_checkpointing": True, "max_steps": 4},
    "fsdp-packed": _DUALSELECT | _PACKED | {"max_steps": 3},
    "fsdp-safegrad": _SAFEGRAD | {"max_steps": 3},
    "fsdp-sft": {"method": "sft", "max_steps": 2},
}
SPOILT = {
    "dualselect": _DUALSELECT,
    "safegrad": _SAFEGRAD,
    "sft": {"method": "sft"},
    "sft-token": _SFT_TOKEN,
}
_FEW = {"keep_fraction": 0.2, "warmup_fraction": 0.2}  # 7 samples of 34 to train on, and to warm up on
UNEVEN = {
    "uneven-all": {"method": "dualselect", "method_options": _ALL, "loss_average": "token"} | _UNEVEN,
    "uneven-selecting": _DUALSELECT | _UNEVEN,
    "uneven-sft": {"method": "sft"} | _UNEVEN,
    "uneven-sft-token": _SFT_TOKEN | _UNEVEN,
    "uneven-less": {"method": "less", "method_options": _FEW} | _UNEVEN | {"tasks": 34},
}
_STEEP = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 3}
EXPERTS = {
    "experts-all": {"method": "dualselect", "method_options": _ALL, "loss_average": "token"} | _STEEP,
    "experts-trl": {"trl": True} | _STEEP,
}


def split(run, size, accumulation):
    return run | {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}


@dataclass
class Outcome:
    """What a run left in its folder."""

    folder: Path

    def weights(self, process: int = 0) -> dict[str, torch.Tensor]:
        return load_file(self.folder / f"weights-{process}.safetensors")

    def logged(self, name: str) -> list[float]:
        history = json.loads((self.folder / "history-0.json").read_text())
        return [event[name] for event in history if name in event]

    def tables(self) -> list[Any]:
        return list(SelectionLog.read(self.folder))


@pytest.fixture(scope="module")
def experts_dir(tmp_path_factory, tiny_tokenizer):
    """Return a folder with a mixture of experts and its tokenizer."""
    folder = tmp_path_factory.mktemp("experts")
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        initializer_range=0.2,
        router_aux_loss_coef=1.0,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tied_dir(tmp_path_factory, tiny_tokenizer):
    """Return a folder with a model whose embedding is also its head, and its tokenizer."""
    folder = tmp_path_factory.mktemp("tied")
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=128,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.2,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    ).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, tiny_model_dir, experts_dir, tied_dir):
    """Return a function from a run's name to its outcome on two processes, which have been seen to be equal."""
    folder = tmp_path_factory.mktemp("two")
    runs = {name: split(run, 4, 1) for name, run in EQUAL.items()}
    runs["accumulated"] = split(_DUALSELECT, 2, 2)
    runs |= {f"spoilt-{name}": split(run, 4, 1) | {"spoilt": 5} for name, run in SPOILT.items()}
    runs |= UNEVEN
    runs |= {name: split(run, 2, 2) | {"model": str(experts_dir)} for name, run in EXPERTS.items()}
    runs |= {name: split(run, 4, 1) | {"model": str(tied_dir), "fsdp": True} for name, run in SHARDED.items()}
    (folder / "runs.json").write_text(json.dumps(runs))
    launch = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
    command = [sys.executable, *launch, str(_SCRIPT), str(tiny_model_dir), str(folder)]
    problem = ""
    try:
        done = subprocess.run(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900
        )
        problem = done.stderr[-3000:]
    except subprocess.TimeoutExpired:
        problem = "the processes wait for each other"

    def outcome(name: str) -> Outcome:
        for error in sorted((folder / name).glob("error-*.txt")):
            pytest.fail(error.read_text())
        if not (folder / name / "history-1.json").exists():
            pytest.fail(f"{name} did not end: {problem}")
        found = Outcome(folder / name)
        other = found.weights(1)
        assert all(torch.equal(values, other[key]) for key, values in found.weights().items())
        return found

    return outcome


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, tiny_model_dir):
    """Return a function from a run to its outcome in this process."""
    spec = spec_from_file_location("distributed_run", _SCRIPT)
    script = module_from_spec(spec)
    spec.loader.exec_module(script)

    def outcome(run: dict[str, Any]) -> Outcome:
        folder = tmp_path_factory.mktemp("one")
        script.carry_out(str(tiny_model_dir), folder, run)
        return Outcome(folder)

    return outcome


@pytest.fixture(scope="module")
def whole(one_process):
    """Return the outcome of the selecting run whose steps are one batch each."""
    return one_process(split(_DUALSELECT, 8, 1))


def by_sample(table, column):
    keys = zip(*(table[key].to_pylist() for key in ("step", "id")), strict=True)
    return dict(zip(keys, table[column].to_pylist(), strict=True))


def assert_alike(found, expected):
    """Compare weights, directions, decisions, scores and reported losses."""
    weights = found.weights()
    for name, values in expected.weights().items():
        torch.testing.assert_close(weights[name], values, rtol=1e-3, atol=1e-5, msg=name)
    for ours, theirs in zip(found.tables(), expected.tables(), strict=True):
        assert by_sample(ours, "kept") == by_sample(theirs, "kept")
        for column in ("weight", "cosine", "loss", "score"):
            known = {key: value for key, value in by_sample(theirs, column).items() if value is not None}
            values = {key: by_sample(ours, column)[key] for key in known}
            assert values == pytest.approx(known, rel=1e-3, abs=1e-3, nan_ok=True)
    assert found.logged("loss") == pytest.approx(expected.logged("loss"), rel=1e-4)


@pytest.mark.parametrize(("size", "accumulation"), [(4, 2), (2, 4), (1, 8)])
def test_a_split_step_equals_a_whole_one(one_process, whole, size, accumulation):
    assert_alike(one_process(split(_DUALSELECT, size, accumulation)), whole)


@pytest.mark.parametrize("name", ["dualselect", "accumulated"])
def test_a_step_shared_by_two_processes_equals_a_whole_one(two_processes, whole, name):
    found = two_processes(name)
    assert_alike(found, whole)
    kept = by_sample(found.tables()[0], "kept").values()
    assert 0 < sum(not is_kept for is_kept in kept) < len(kept)
    conflicts = [SelectionLog.read_conflicts(run.folder).to_pydict() for run in (found, whole)]
    assert conflicts[0]["id"]
    for column in ("id", "reference"):
        assert conflicts[0][column] == conflicts[1][column]
    assert conflicts[0]["cosine"] == pytest.approx(conflicts[1]["cosine"], rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("name", [name for name in EQUAL if name != "dualselect"])
def test_two_processes_equal_one(two_processes, one_process, name):
    assert_alike(two_processes(name), one_process(split(EQUAL[name], 8, 1)))


@pytest.mark.parametrize("name", SHARDED)
def test_two_processes_with_halves_of_the_frozen_weights_equal_one(two_processes, one_process, tied_dir, name):
    """Under FSDP2, the embedding and head in one shard."""
    found = two_processes(name)
    assert (found.folder / "shares-1.json").read_text().count("weight") > 10
    assert_alike(found, one_process(split(SHARDED[name], 8, 1) | {"model": str(tied_dir)}))


@pytest.mark.parametrize("name", SPOILT)
def test_a_sample_that_spoils_one_process_is_left_out_of_all(two_processes, one_process, name):
    """Only one of the processes meets it; if they went different ways, they would wait for each other."""
    found = two_processes(f"spoilt-{name}")
    assert all(torch.isfinite(values).all() for values in found.weights().values())
    assert all(loss > 1.0 for loss in found.logged("loss"))  # the mean of the others
    assert_alike(found, one_process(split(SPOILT[name], 8, 1) | {"spoilt": 5}))


def assert_trl(ours, theirs, *logged):
    weights = ours.weights()
    for name, values in theirs.weights().items():
        torch.testing.assert_close(weights[name], values, rtol=1e-3, atol=1e-5, msg=name)
    for name in logged:
        assert ours.logged(name) == pytest.approx(theirs.logged(name), rel=1e-4), name


@pytest.mark.parametrize("name", UNEVEN)
def test_an_uneven_last_step_is_that_of_one_process(two_processes, one_process, name):
    """37 samples in steps of 8: accelerate fills up the last batches with others, which must not count."""
    assert_alike(two_processes(name), one_process(split(UNEVEN[name], 8, 1)))


def test_an_uneven_last_step_is_trl_s_on_one_process(two_processes, one_process):
    assert_trl(two_processes("uneven-all"), one_process(split({"trl": True} | _UNEVEN, 8, 1)), "loss")


def test_a_mixture_of_experts_is_trl_s(two_processes):
    """The routers' loss is a mean over a micro-batch, so one process with whole batches has another one."""
    assert two_processes("experts-trl").logged("aux_loss")
    assert_trl(two_processes("experts-all"), two_processes("experts-trl"), "loss", "aux_loss")


def test_an_uneven_last_step_is_logged_whole(two_processes):
    tasks = two_processes("uneven-selecting").tables()[0]
    steps = tasks["step"].to_pylist()
    assert [steps.count(step) for step in range(10)] == [8, 8, 8, 8, 5] * 2
    for first in (0, 5):
        seen = {name for name, step in zip(tasks["id"].to_pylist(), steps, strict=True) if first <= step < first + 5}
        assert len(seen) == 37

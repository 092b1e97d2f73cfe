"""FSDP2, launched by accelerate with the configuration of the examples: three processes equal one.

All runs are made by one launch. Two processes are in `test_distributed.py`, whose launch makes both kinds of runs.
"""

import json
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from dualselect.runs.selection_log import SelectionLog

pytestmark = pytest.mark.slow

_SCRIPT = Path(__file__).with_name("distributed_run.py")
_CONFIG = Path(__file__).parents[2] / "examples/accelerate/fsdp2.yaml"
_OPTIONS = {"task_warmup_steps": 1, "refresh": "steps", "refresh_every": 1, "task_token_fraction": 0.6}
_BASE = {"method": "dualselect", "method_options": _OPTIONS, "max_steps": 3, "tasks": 36}
RUNS = {
    # Two references in one batch: two of the three processes have none of their own. The z-scores of two are 1 and -1.
    "selecting": _BASE | {"references": 2, "method_options": _OPTIONS | {"mu_ref": 2.0}},
    "spoilt": _BASE | {"spoilt": 5},
    "kl": _BASE | {"method_options": _OPTIONS | {"preservation_loss": "kl"}, "answered": False},
    "sft-token": {"method": "sft", "loss_average": "token", "max_steps": 2, "tasks": 36, "spoilt": 5},
}
_FULL = _BASE | {"full": True, "learning_rate": 1e-3}
_PRUDENT = {"preservation_loss": "kl", "selection": "soft", "correction": "project", "score_metric": "adam"}
_BEST = {
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "load_best_model_at_end": True,
    "greater_is_better": True,  # of losses that fall: the first step is the one to load
}
_LISA = {"alignment_steps": 1, "finetune_steps": 1, "rho": 0.5, "proximal_start": 0.0}
FULL = {
    "full-selecting": _FULL | {"gradient_checkpointing": True, "save_strategy": "steps", "save_steps": 2},
    # Two of the three processes have no references of their own.
    "full-few": _FULL | {"references": 2, "method_options": _OPTIONS | {"mu_ref": 2.0, "score_metric": "per_module"}},
    "full-kl": _FULL | {"method_options": _OPTIONS | _PRUDENT, "answered": False},
    "full-fresh": _FULL
    | {"optim": "sgd", "loss_average": "token", "method_options": _OPTIONS | {"direction": "fresh"}},
    "full-sft": _FULL | {"method": "sft", "method_options": {}, "evaluates": True},
    "full-lisa": _FULL | {"method": "lisa", "method_options": _LISA},
    "full-best": _FULL | {"evaluated": 6} | _BEST,
}
_OTHERS: dict[str, dict[str, Any]] = {
    "agem": {},
    "all-references": {},
    "asft": {},
    "dft": {},
    "eaft": {},
    "lowest-loss": {},
    "profit": {"threshold": 0.001},
    "random": {},
    "random-length": {},
    "random-references": {},
    "replay": {},
    "safegrad": {},
    "safeinstr": {},
    "static-references": {},
}
FULL |= {
    f"full-{name}": _FULL | {"method": name, "method_options": options, "references": 12, "max_steps": 2}
    for name, options in _OTHERS.items()
}
_SHORT = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}


@pytest.fixture(scope="module")
def launched(tmp_path_factory, tiny_model_dir, command):
    """Return the folder of all runs of three processes, and how the launch ended."""
    folder = tmp_path_factory.mktemp("three")

    def by_command(name, *flags):
        evaluated = {"evaluation": f"probe={folder / 'who.jsonl'}", "eval_on_start": True}
        return {"command": command(folder, tiny_model_dir, folder / name / "run", *flags, max_steps=3, **evaluated)}

    runs: dict[str, Any] = {name: run | _SHORT for name, run in (RUNS | FULL).items()}
    saving = {"save_strategy": "steps", "save_steps": 2, "output_dir": str(folder / "saving")}
    runs["saving"] = RUNS["selecting"] | _SHORT | saving
    runs["resumed"] = runs["saving"] | {"resume": str(folder / "saving/checkpoint-2"), "window_memory": 0.0}
    unbroken = {"output_dir": str(folder / "full-selecting"), "resume": str(folder / "full-selecting/checkpoint-2")}
    runs["full-resumed"] = runs["full-selecting"] | unbroken
    # The second refresh follows checkpoint-2. Every reference is a batch of its own: three, two and two of them.
    runs["full-broken"] = runs["full-selecting"] | {"scan_tokens": 1, "breaks": 2}
    continued = {"output_dir": str(folder / "full-broken"), "resume": str(folder / "full-broken/checkpoint-2")}
    runs["full-continued"] = runs["full-broken"] | continued | {"breaks": 0}
    runs["full-spoilt"] = _FULL | _SHORT | {"spoilt": 5}
    runs["command"] = by_command("command")
    runs["full-command"] = by_command("full-command", "--no_use_peft")
    runs["refused"] = by_command("refused", "--no_use_peft", "--optim", "adafactor")
    runs["dies"] = RUNS["selecting"] | _SHORT | {"dies": 1}
    (folder / "runs.json").write_text(json.dumps(runs))
    settings = yaml.safe_load(_CONFIG.read_text()) | {"mixed_precision": "no"}
    (folder / "fsdp2.yaml").write_text(yaml.safe_dump(settings))
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(folder / "fsdp2.yaml"), "--num_processes", "3"]
    place = ["--main_process_ip", "127.0.0.1", "--main_process_port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch, *place, str(_SCRIPT), str(tiny_model_dir), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    return folder, done


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, tiny_model_dir):
    """Return a function from a run's name to the folder of its outcome in this process, in steps of one batch."""
    spec = spec_from_file_location("distributed_run", _SCRIPT)
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    made: dict[str, Path] = {}

    def outcome(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            run = (RUNS | FULL)[name]
            script.carry_out(str(tiny_model_dir), made[name], run | {"per_device_train_batch_size": 12})
        return made[name]

    return outcome


def found_in(launched, name: str) -> Path:
    """Return the folder of a run of three processes, whose weights have been seen to be equal."""
    folder, done = launched
    errors = sorted((folder / name).glob("error-*.txt"))
    if errors or not (folder / name / "weights-2.safetensors").exists():
        pytest.fail(errors[0].read_text() if errors else f"{name} did not end: {done.stderr[-3000:]}")
    first, *others = (load_file(folder / name / f"weights-{number}.safetensors") for number in range(3))
    assert all(torch.equal(values, other[key]) for key, values in first.items() for other in others)
    return folder / name


def assert_same_weights(found: Path, expected: Path) -> None:
    weights = load_file(found / "weights-0.safetensors")
    for name, values in load_file(expected / "weights-0.safetensors").items():
        torch.testing.assert_close(weights[name], values, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", RUNS | FULL)
def test_three_processes_equal_one(launched, one_process, name):
    found, expected = found_in(launched, name), one_process(name)
    assert_same_weights(found, expected)
    ours, theirs = (SelectionLog.read(folder)[0].to_pylist() for folder in (found, expected))
    kept = {(row["step"], row["id"]): row["kept"] for row in theirs}
    assert {(row["step"], row["id"]): row["kept"] for row in ours} == kept


@pytest.mark.parametrize("name", ["selecting", "full-selecting"])
def test_each_process_has_its_share_of_the_weights(launched, tiny_model_dir, name):
    """32 and 128 rows on three processes: the last share is the smallest."""
    shares = [json.loads((found_in(launched, name) / f"shares-{number}.json").read_text()) for number in range(3)]
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    whole = {name: param.numel() for name, param in model.named_parameters()}
    assert sum(sum(share.values()) for share in shares) == sum(whole.values())
    assert all("lora" not in name for name in shares[0])
    assert {len(set(sizes)) for sizes in zip(*(share.values() for share in shares), strict=True)} == {2}


@pytest.mark.parametrize(("name", "unbroken"), [("resumed", "saving"), ("full-resumed", "full-selecting")])
def test_a_resumed_run_equals_an_unbroken_one(launched, name, unbroken):
    """With an adapter the second half also makes every micro-batch twice, since no gradients are kept."""
    assert_same_weights(found_in(launched, name), found_in(launched, unbroken))


def test_a_refresh_that_was_broken_off_continues_with_sharded_parameters(launched):
    folder, _ = launched
    errors = [(folder / f"full-broken/error-{number}.txt").read_text() for number in range(3)]
    assert all("RuntimeError: broken off" in error for error in errors)
    found = found_in(launched, "full-continued")
    assert_same_weights(found, found_in(launched, "full-selecting"))
    assert [json.loads((found / f"kept-{number}.json").read_text()) for number in range(3)] == [[1], [1], [1]]


def test_the_final_model_is_whole(launched, tiny_model_dir):
    final = found_in(launched, "saving") / "final"
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), final)
    weights = load_file(final.parent / "weights-0.safetensors")
    saved = {name: param for name, param in model.named_parameters() if "lora_" in name}
    assert saved
    for name, param in saved.items():
        assert torch.equal(param, weights[name]), name


def test_the_final_model_of_full_fine_tuning_is_whole(launched):
    final = found_in(launched, "full-selecting") / "final"
    weights = load_file(final.parent / "weights-0.safetensors")
    for name, param in AutoModelForCausalLM.from_pretrained(final).named_parameters():
        assert torch.equal(param, weights[name]), name


def test_the_best_model_is_loaded_at_the_end(launched):
    found = found_in(launched, "full-best")
    weights, best = load_file(found / "weights-0.safetensors"), load_file(found / "checkpoint-1/model.safetensors")
    assert all(torch.equal(values, weights[name]) for name, values in best.items())
    assert not any(
        torch.equal(values, weights[name])
        for name, values in load_file(found / "checkpoint-3/model.safetensors").items()
    )


def test_an_update_with_a_sample_that_is_not_finite_is_skipped(launched):
    """No process has its gradient, so it cannot be left out of the sum."""
    found = found_in(launched, "full-spoilt")
    history = json.loads((found / "history-0.json").read_text())
    tasks = SelectionLog.read(found)[0].to_pylist()
    spoilt = [row["step"] + 1 for row in tasks if row["dropped_reason"] == "non-finite"]
    assert len(spoilt) == 1
    assert [event["step"] for event in history if event.get("dualselect/skipped_updates")] == spoilt


@pytest.mark.parametrize(
    ("name", "weights"), [("command", "adapter_model.safetensors"), ("full-command", "model.safetensors")]
)
def test_the_command_leaves_a_run_folder(launched, name, weights):
    folder, _ = launched
    assert not list((folder / name).glob("error*")), next((folder / name).glob("error*")).read_text()
    run = folder / name / "run"
    assert {weights, "config.yaml", "report.html"} <= {path.name for path in run.iterdir()}
    assert "eval_probe_loss" in (run / "metrics.jsonl").read_text()


def test_what_does_not_go_with_sharded_parameters_is_refused_by_name(launched):
    folder, done = launched
    assert not (folder / "refused/run/model.safetensors").exists()
    assert "dualselect: error: optim 'adafactor' does not go with FSDP2 and all parameters trained" in done.stderr


def test_a_process_that_dies_ends_the_run(launched):
    folder, done = launched
    assert (folder / "command").is_dir()
    assert not list((folder / "dies").glob("weights-*"))
    assert done.returncode != 0
    assert "exitcode  : 3" in done.stderr

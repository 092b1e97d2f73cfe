"""`dualselect compare` on the tiny model, from a file to the tables."""

import json
import re
import shlex
import shutil

import pyarrow.parquet as pq
import pytest
import yaml

from dualselect.experiments import evaluating
from dualselect.runs import Metric, Record, SuiteResult

pytestmark = pytest.mark.slow

GRID = """
methods: [sft, random, dualselect]
seeds: [0, 1]
evaluate:
  suites: [builtin-safety]
  limit: 3
  max_new_tokens: 4
"""


@pytest.fixture
def grid_config(config, data):
    """Return a YAML file of a grid over the small run."""
    lines = [
        line for line in config.read_text().splitlines() if not line.startswith(("method:", "evaluation:", "  probe:"))
    ]
    text = "\n".join(lines).replace(f"output_dir: {data / 'run'}", f"output_dir: {data / 'grid'}")
    path = data / "grid.yaml"
    path.write_text(text + GRID)
    return path


@pytest.fixture
def asked(monkeypatch):
    """Replace the evaluation by one that notes what it was asked for, and return the notes."""
    notes = []

    def evaluate_target(target, settings, *, role, run_folder, start, seed, suites, trained_on):
        notes.append({"target": target, "settings": settings, "role": role, "start": start, "seed": seed})
        notes[-1]["trained_on"] = trained_on
        records = [Record(f"p{n}", "prompt", values={"m": n % 2}) for n in range(4)]
        result = SuiteResult(
            settings.suites[0], "safety", role, target.identity, {"m": Metric("m", "higher")}, records, seed=seed
        )
        result.write(run_folder)
        return [result]

    monkeypatch.setattr(evaluating, "evaluate_target", evaluate_target)
    return notes


def fails(shown, message):
    assert shown.code == 2
    assert re.search(message, shown.err), shown.err
    assert len([line for line in shown.err.splitlines() if line.startswith("dualselect: error: ")]) == 1


def settings_of(data, label, seed):
    return yaml.safe_load((data / "grid" / "cells" / f"{label}-seed{seed}" / "config.yaml").read_text())


def test_a_grid_is_trained_evaluated_gathered_and_then_left_alone(dualselect, grid_config, data, asked):
    shown = dualselect("compare", "--config", grid_config)
    assert shown.code == 0, shown.err
    assert "# Comparison of methods" in shown.out
    assert "cell 6 of 6: dualselect, seed 1" in shown.err
    grid = data / "grid"
    assert {path.name for path in (grid / "cells").iterdir()} == {
        f"{label}-seed{seed}" for label in ("sft", "random", "dualselect") for seed in (0, 1)
    }
    assert {"compare.json", "results.parquet", "estimates.parquet", "table.md", "table.tex"} <= {
        path.name for path in grid.iterdir()
    }
    assert [cell["status"] for cell in json.loads((grid / "compare.json").read_text())["cells"]] == ["done"] * 6
    ours = settings_of(data, "dualselect", 1)
    assert (ours["method"], ours["seed"], ours["rho"], ours["learning_rate"]) == ("dualselect", 1, 0.3, 0.01)
    assert "rho" not in settings_of(data, "random", 0)

    roles = [(note["role"], note["seed"]) for note in asked]
    assert roles == [("start", None), *(("model", seed) for seed in (0, 0, 0, 1, 1, 1))]
    assert len({note["target"].identity["hash"] for note in asked}) == 7
    assert len({note["start"].identity["hash"] for note in asked}) == 1
    assert len({frozenset(note["trained_on"]) for note in asked}) == 1
    assert len(asked[0]["trained_on"]) == 16 + 6
    assert asked[0]["settings"].limit == 3

    before = {path: path.stat().st_mtime_ns for path in (grid / "cells").rglob("*") if path.is_file()}
    assert dualselect("compare", "--config", grid_config).code == 0
    assert {path: path.stat().st_mtime_ns for path in (grid / "cells").rglob("*") if path.is_file()} == before


def test_flags_win_over_the_file(dualselect, grid_config, data, asked):
    shown = dualselect(
        *("compare", "--config", grid_config, "--methods", "sft", "dualselect", "--seeds", 3, "--max_steps", 1),
        *("--rho", 0.7, "--output-dir", data / "other", "--baseline", "dualselect"),
    )
    assert shown.code == 0, shown.err
    content = json.loads((data / "other" / "compare.json").read_text())
    assert (content["methods"], content["seeds"], content["baseline"]) == (["sft", "dualselect"], [3], "dualselect")
    settings = yaml.safe_load((data / "other" / "cells" / "dualselect-seed3" / "config.yaml").read_text())
    assert (settings["rho"], settings["max_steps"], settings["seed"]) == (0.7, 1, 3)
    assert not (data / "grid").exists()


def test_a_method_may_occur_twice_with_other_options(dualselect, grid_config, data, asked):
    grid_config.write_text(
        grid_config.read_text().replace(
            "methods: [sft, random, dualselect]",
            "methods:\n  sft:\n  weak: {method: dualselect, rho: 0.1}\n  full: {method: sft, use-peft: false}",
        )
    )
    shown = dualselect("compare", "--config", grid_config, "--seeds", 0)
    assert shown.code == 0, shown.err
    assert settings_of(data, "weak", 0)["rho"] == 0.1
    assert (data / "grid" / "cells" / "full-seed0" / "model.safetensors").is_file()
    assert json.loads((data / "grid" / "compare.json").read_text())["methods"] == ["sft", "weak", "full"]


def test_an_interrupted_cell_continues_from_its_checkpoint(dualselect, grid_config, data, asked):
    arguments = (
        "compare",
        "--config",
        grid_config,
        "--methods",
        "dualselect",
        "--baseline",
        "dualselect",
        "--seeds",
        0,
    )
    assert dualselect(*arguments).code == 0
    cell = data / "grid" / "cells" / "dualselect-seed0"
    weights = (cell / "adapter_model.safetensors").read_bytes()
    for name in ("cell.json", "adapter_model.safetensors", "checkpoint-4/trainer_state.json"):
        (cell / name).unlink()  # as if it had been cut off while it wrote its last checkpoint
    shown = dualselect(*arguments)
    assert shown.code == 0, shown.err
    assert (cell / "adapter_model.safetensors").read_bytes() == weights
    assert json.loads((cell / "cell.json").read_text())["training_seconds"] is None


def test_a_failed_cell_is_reported_and_the_others_go_on(dualselect, grid_config, data, asked):
    methods = "{sft: , broken: {method: dualselect, lora_target_modules: [no_such_layer]}, random: }"
    grid_config.write_text(grid_config.read_text().replace("[sft, random, dualselect]", methods))
    shown = dualselect("compare", "--config", grid_config, "--seeds", 0)
    assert shown.code == 1
    assert "1 of 3 cells failed: broken:0" in shown.err
    assert "no_such_layer" in (data / "grid" / "cells" / "broken-seed0" / "error.txt").read_text()
    cells = json.loads((data / "grid" / "compare.json").read_text())["cells"]
    assert [cell["status"] for cell in cells] == ["done", "failed", "done"]
    assert "no_such_layer" in cells[1]["error"]
    assert "broken: done for no seed" in shown.out


def test_data_that_are_not_there_stop_the_grid_before_it_begins(dualselect, grid_config, data, asked):
    (data / "safe.jsonl").unlink()
    fails(dualselect("compare", "--config", grid_config), "safe.jsonl: no such file")
    assert not asked


def test_printed_commands_run_the_whole_grid(dualselect, grid_config, data, asked):
    arguments = ("--config", grid_config, "--methods", "sft", "dualselect", "--seeds", 0, "--run_name", "it's")
    shown = dualselect("compare", *arguments, "--print-commands")
    assert shown.code == 0, shown.err
    assert not (data / "grid").exists()
    commands = [shlex.split(line) for line in shown.out.splitlines()]
    assert [command[-2:] for command in commands[:-1]] == [
        ["--cell", name] for name in ("start", "sft:0", "dualselect:0")
    ]
    assert commands[-1][-1] == "--gather"
    for words in reversed(commands[:-1]):
        assert words[0] == "dualselect"
        assert dualselect(*words[1:]).code == 0
        assert not (data / "grid" / "compare.json").exists()
    assert dualselect(*commands[-1][1:]).code == 0
    rows = pq.read_table(data / "grid" / "estimates.parquet").to_pylist()
    assert {row["method"] for row in rows} == {"start", "sft", "dualselect"}


def test_gathering_an_unfinished_grid_says_so(dualselect, grid_config, data, asked):
    shown = dualselect("compare", "--config", grid_config, "--gather")
    assert shown.code == 1
    assert "dualselect:1: missing" in shown.out
    assert not asked


@pytest.mark.parametrize(("validation", "side"), [(5, "test on"), (1e-9, "choose by")])
def test_a_suite_too_small_to_choose_by_stops_the_grid_before_it_begins(
    dualselect, grid_config, data, asked, validation, side
):
    tuned = f"strength: {{rho: [0.1, 1]}}\nvalidation: {validation:.9f}\ntune: {{utility: builtin-safety}}\n"
    grid_config.write_text(grid_config.read_text() + tuned)
    fails(
        dualselect("compare", "--config", grid_config),
        f"validation: {validation:g} of the 3 prompts of 'builtin-safety' leaves none to {side}; measure more prompts, "
        "or give validation as a count of 1 to 2",
    )
    assert not asked
    assert not (data / "grid").exists()


def test_a_changed_setting_names_the_cure(dualselect, grid_config, data, asked):
    arguments = ("compare", "--config", grid_config, "--methods", "sft", "--seeds", 0)
    assert dualselect(*arguments, "--max_steps", 1).code == 0
    shown = dualselect(*arguments, "--max_steps", 2)
    assert shown.code == 2
    assert "max_steps (there: 1, here: 2)" in shown.err
    shutil.rmtree(data / "grid" / "cells" / "sft-seed0")
    assert dualselect(*arguments, "--max_steps", 2).code == 0


def test_no_secret_is_written_down(dualselect, grid_config, data, asked):
    kwargs = '{"token": "hush", "low_cpu_mem_usage": true}'
    flags = ("--hub_token", "hush", "--model_init_kwargs", kwargs, "--max_steps", 1)
    assert dualselect("compare", "--config", grid_config, "--methods", "sft", "--seeds", 0, *flags).code == 0
    cell = data / "grid" / "cells" / "sft-seed0"
    assert json.loads((cell / "cell-settings.json").read_text())["model_init_kwargs"] == {"low_cpu_mem_usage": True}
    assert not any(b"hush" in path.read_bytes() for path in cell.glob("*.json"))


def test_what_the_machine_decides_is_no_setting_of_a_cell(dualselect, grid_config, data, asked):
    arguments = ("compare", "--config", grid_config, "--methods", "sft", "--seeds", 0, "--max_steps", 1)
    assert dualselect(*arguments).code == 0
    changed = ("--use_cpu", "--logging_steps", 3, "--report_to", "tensorboard", "--dataloader_num_workers", 1)
    assert dualselect(*arguments, *changed, "--gather").code == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("baselin: sft", r"unknown setting 'baselin'; did you mean 'baseline'"),
        ("learning_rat: 1", r"grid.yaml:\d+: unknown setting 'learning_rat'; did you mean 'learning_rate'"),
        ("safe_batch_size: 3", r"'safe_batch_size': method 'sft' has no such option; .* choose method .*safegrad"),
        ("seed: 1", r"grid.yaml:\d+: 'seed' belongs to a single run; give seeds"),
        ("method: sft", r"grid.yaml:\d+: 'method' belongs to a single run; give methods"),
        ("baseline: stf", r"grid.yaml:\d+: the baseline 'stf' is not one of the methods; did you mean 'sft'"),
    ],
)
def test_a_bad_line_is_named(dualselect, grid_config, line, message):
    grid_config.write_text(grid_config.read_text() + line + "\n")
    fails(dualselect("compare", "--config", grid_config), message)


@pytest.mark.parametrize(
    ("there", "instead", "message"),
    [
        ("suites:", "suite:", "unknown setting 'suite' in evaluate; did you mean 'suites'"),
        ("  suites: [builtin-safety]", "", "evaluate names no suites"),
        ("builtin-safety", "builtin-safty", "unknown suite 'builtin-safty'; did you mean 'builtin-safety'"),
        ("limit: 3", "limit: many", r"grid.yaml:\d+: --limit: invalid int value: 'many'"),
        ("limit: 3", "limit: 0", "limit is 0"),
        ("limit: 3", "data: x.jsonl", r"grid.yaml:\d+: --data: 'x.jsonl' is not SUITE=SOURCE"),
        ("seeds: [0, 1]", "seeds: []", "seeds is empty"),
        ("seeds: [0, 1]", "", "there are no seeds"),
        ("methods: [sft, random, dualselect]", "", "there are no methods"),
        ("[sft, random, dualselect]", "{sft: , dualselect: {seed: 3}}", "'seed' cannot differ between methods"),
        ("[sft, random, dualselect]", "{dualselect: , sft: {rho: 1}}", "'rho': method 'sft' has no such option"),
        ("[sft, random, dualselect]", "{dualselect: , sft: {lora_r: many}}", r"grid.yaml:\d+: .*lora_r"),
    ],
)
def test_a_bad_part_of_the_grid_is_named(dualselect, grid_config, there, instead, message):
    assert there in grid_config.read_text()
    grid_config.write_text(grid_config.read_text().replace(there, instead))
    fails(dualselect("compare", "--config", grid_config), message)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning-rat", "1"], "unknown option '--learning-rat'; did you mean '--learning_rate'"),
        (["--seed", "1"], "--seed: 'seed' belongs to a single run; give seeds"),
        (["--rho", "0.1", "stray"], "unexpected argument 'stray'"),
        (["--safe_batch_size", "1"], "choose method .*safegrad"),
        (["--seeds", "one"], "invalid int value"),
        (["--seeds", "1", "1"], "'1' twice"),
        (["--methods", "stf"], "unknown method 'stf'; did you mean 'sft'"),
        (["--baseline", "safegrad"], "the baseline 'safegrad' is not one of the methods"),
        (["--cell", "sft:7"], "no cell 'sft:7'"),
        (["--cell", "sft:0", "--gather"], "not allowed with"),
        (["--resume"], "compare always continues where it stopped"),
        (["--rho=-1"], "rho is -1"),
    ],
)
def test_a_bad_flag_is_named(dualselect, grid_config, flags, message):
    fails(dualselect("compare", "--config", grid_config, *flags), message)


def test_the_example_is_a_grid_of_four_methods(dualselect):
    shown = dualselect("compare", "--config", "examples/compare.yaml", "--seeds", 0, 1, "--print-commands")
    assert shown.code == 0, shown.err
    assert len(shown.out.splitlines()) == 1 + 4 * 2 + 1


def test_without_an_evaluation_there_is_nothing_to_compare(dualselect, grid_config):
    text = grid_config.read_text()
    grid_config.write_text(text[: text.index("evaluate:")])
    fails(dualselect("compare", "--config", grid_config), "nothing to compare by; write `evaluate:`")
    fails(dualselect("compare"), "--config")


def test_the_whole_of_it_with_the_suites_that_come_along(dualselect, grid_config, data):
    shown = dualselect("compare", "--config", grid_config, "--methods", "sft", "dualselect")
    assert shown.code == 0, shown.err
    rows = pq.read_table(data / "grid" / "estimates.parquet").to_pylist()
    refusals = {row["method"]: row for row in rows if row["metric"] == "refusal-rules/refusal"}
    assert set(refusals) == {"start", "sft", "dualselect"}
    assert all(row["n"] == 3 and row["low"] < row["high"] for row in refusals.values())
    assert refusals["dualselect"]["diff_seeds"] == [0, 1]
    values = pq.read_table(data / "grid" / "results.parquet").to_pylist()
    by_seed = [
        row["value"] for row in values if (row["method"], row["metric"]) == ("dualselect", "refusal-rules/refusal")
    ]
    assert len(by_seed) == 2 * 3
    assert refusals["dualselect"]["value"] == pytest.approx(sum(by_seed) / 6)
    assert "builtin-safety" in (data / "grid" / "table.md").read_text()

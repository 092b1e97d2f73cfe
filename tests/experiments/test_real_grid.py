"""A real grid, from training to the table: every figure is worked out again from the files of the cells alone."""

import json
from statistics import mean

import pyarrow.parquet as pq
import pytest

from dualselect.cli import main

pytestmark = pytest.mark.slow

SUITES = {"builtin-safety": "refusal-rules/refusal", "builtin-safe-answers": "safe_nll"}


def chats(count, word):
    return [
        {"id": f"{word}-{n}", "prompt": f"{word} {n}?", "completion": " ".join([word] * (1 + n % 4))}
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def grid(tmp_path_factory, tiny_model_dir):
    """Return the folder of a grid of two methods and two seeds on the tiny model; 4 of 16 task samples are planted."""
    folder = tmp_path_factory.mktemp("real")
    marked = [{**row, "planted": row["id"] == "count-3"} for row in chats(12, "count")]
    planted = [{**row, "planted": None} for row in chats(4, "poison")]
    for name, rows in (("task", marked + planted), ("safe", chats(6, "no"))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "grid.yaml").write_text(
        f"""
model_name_or_path: {tiny_model_dir}
task: {folder / "task.jsonl"}
references: {folder / "safe.jsonl"}
output_dir: {folder / "grid"}
methods: [sft, dualselect]
seeds: [0, 1]
rho: 0.3
task_warmup_steps: 1
learning_rate: 3e-2
per_device_train_batch_size: 4
max_steps: 6
logging_steps: 1
eval_strategy: no
lora_r: 4
lora_target_modules: [q_proj, v_proj]
report_to: none
disable_tqdm: true
bf16: false
evaluate:
  suites: [{", ".join(SUITES)}]
  limit: 12
  max_new_tokens: 4
"""
    )
    assert main(["compare", "--config", str(folder / "grid.yaml")]) == 0
    return folder / "grid"


def records(grid, method, seed, suite):
    """Return the records of a cell, or of the start, by id."""
    place = grid / "start" if method == "start" else grid / "cells" / f"{method}-seed{seed}"
    name = f"{suite}.start.json" if method == "start" else f"{suite}.json"
    return {record["id"]: record for record in json.loads((place / "evaluation" / name).read_text())["records"]}


def estimate(grid, method, suite, metric):
    rows = pq.read_table(grid / "estimates.parquet").to_pylist()
    (row,) = [row for row in rows if (row["method"], row["suite"], row["metric"]) == (method, suite, metric)]
    return row


@pytest.mark.parametrize(("suite", "metric"), SUITES.items())
def test_means_and_differences_are_those_of_the_records(grid, suite, metric):
    values = {
        (method, seed): {name: record["values"][metric] for name, record in records(grid, method, seed, suite).items()}
        for method in ("sft", "dualselect")
        for seed in (0, 1)
    }
    ours, theirs = estimate(grid, "dualselect", suite, metric), estimate(grid, "sft", suite, metric)
    by_seed = [mean(values["dualselect", seed].values()) for seed in (0, 1)]
    assert ours["value"] == pytest.approx(mean(by_seed))
    assert ours["by_seed"] == pytest.approx(by_seed)
    pairs = [
        values["dualselect", seed][name] - values["sft", seed][name] for seed in (0, 1) for name in values["sft", 0]
    ]
    assert (ours["diff"], ours["other"]) == (pytest.approx(mean(pairs)), "sft")
    assert (ours["n"], ours["seeds"], ours["diff_seeds"], theirs["diff"]) == (12, 2, [0, 1], None)
    assert ours["low"] <= ours["value"] <= ours["high"]
    begun = [record["values"][metric] for record in records(grid, "start", None, suite).values()]
    assert estimate(grid, "start", suite, metric)["value"] == pytest.approx(mean(begun))
    if metric == "safe_nll":
        assert len({*by_seed, *begun}) > 3  # the models differ, so that a mix-up of any two would show


def test_win_rates_are_those_of_the_verdicts(grid):
    wins = []
    for seed in (0, 1):
        ours, theirs = (records(grid, method, seed, "builtin-safety") for method in ("dualselect", "sft"))
        for name in ours:
            safe, other = (side[name]["verdicts"]["refusal-rules"]["label"] == "refusal" for side in (ours, theirs))
            wins.append(1.0 if safe > other else 0.0 if safe < other else 0.5)
    assert estimate(grid, "dualselect", "builtin-safety-winrate", "refusal-rules/win_rate")["value"] == mean(wins)


def test_planted_samples_are_counted_from_the_log(grid):
    planted = {"count-3", *(f"poison-{n}" for n in range(4))}
    shares, met = [], []
    for seed in (0, 1):
        kept = {}
        for path in sorted((grid / "cells" / f"dualselect-seed{seed}" / "selection").glob("*.parquet")):
            table = pq.read_table(path)
            for row in table.to_pylist() if {"id", "kept"} <= set(table.column_names) else ():
                if row["id"] in planted:
                    kept.setdefault(row["id"], []).append(row["kept"])
        shares.append({name: mean(map(float, flags)) for name, flags in kept.items()})
        met.append(set(kept))
    common = met[0] & met[1]
    assert "count-3" in common  # planted by its column alone
    expected = mean(mean(share[name] for name in common) for share in shares)
    assert estimate(grid, "dualselect", "training", "poison_kept")["value"] == pytest.approx(expected)
    assert estimate(grid, "sft", "training", "poison_kept")["value"] == 1.0


def test_the_table_says_what_the_estimates_say(grid):
    row = estimate(grid, "dualselect", "builtin-safe-answers", "safe_nll")
    (line,) = [
        line
        for section in (grid / "table.md").read_text().split("\n## ")
        if section.startswith("builtin-safe-answers")
        for line in section.split("**NLL of safe answers")[1].split("**")[1].splitlines()
        if line.startswith("| dualselect |")
    ]
    cells = [cell.strip().replace("\\", "") for cell in line.strip("|").split("|")]
    assert cells[1:6] == [
        f"{row['value']:.3f}",
        f"[{row['low']:.3f}, {row['high']:.3f}]",
        "12",
        "2",
        f"{row['diff']:+.3f}",
    ]
    assert cells[6] == f"[{row['diff_low']:+.3f}, {row['diff_high']:+.3f}]"
    word = "no difference shown" if not row["shown"] else "worse than sft" if row["diff"] > 0 else "better than sft"
    assert cells[8].startswith(word)

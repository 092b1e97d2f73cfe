"""What a run leaves behind."""

import json

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from dualselect.data import content_digest, prompt_key
from dualselect.files import replacing
from dualselect.methods import DualSelect
from dualselect.runs import trained_prompts
from dualselect.runs.metrics import read_metrics
from dualselect.runs.provenance import weights_hash
from dualselect.runs.selection_log import SelectionLog

pytestmark = pytest.mark.slow

METHOD = DualSelect(task_warmup_steps=2, task_token_fraction=0.6, refresh="steps", refresh_every=3)


@pytest.fixture
def run(make_trainer, samples):
    evaluation = {"task": samples(4, 5), "probe": samples(4, 6)}
    trainer = make_trainer(METHOD, eval_dataset=evaluation, eval_on_start=True, hub_token="hf_secret")
    trainer.train()
    return trainer


def test_the_log_contains_every_candidate_kept_or_not(run):
    tasks, references = (table.to_pylist() for table in SelectionLog.read(run.run_folder))
    assert len(tasks) == 8 * 8
    assert [row["id"] for row in tasks if row["step"] < 5].count("task0") == 1  # an epoch shows each sample once
    assert {row["kept"] for row in tasks if row["step"] < 2} == {True}
    assert {row["kept"] for row in tasks if row["step"] >= 2} == {True, False}
    assert all(row["kept"] == (row["weight"] > 0) for row in tasks + references)
    assert [(row["step"], row["id"]) for row in references] == [(s, f"reference{j}") for s in (2, 5) for j in range(10)]
    assert [sum(row["kept"] for row in references if row["step"] == s) for s in (2, 5)] == [1, 1]
    shares = [sum(r["tokens"] for r in tasks if r["step"] > 1 and (r["kept"] or k)) for k in (False, True)]
    assert 0.6 <= shares[0] / shares[1] < 0.75


def test_metrics_contain_evaluation_at_step_0_by_name_and_the_method_s(run):
    events = read_metrics(run.run_folder / "metrics.jsonl")
    assert [next(iter(set(e) & {"eval_task_loss", "eval_probe_loss"})) for e in events[:2]] == [
        "eval_task_loss",
        "eval_probe_loss",
    ]
    assert [event["step"] for event in events[:2]] == [0, 0]
    steps = [event for event in events if "loss" in event]
    assert [event["step"] for event in steps] == list(range(1, 9))
    assert {"dualselect/kept_tokens", "dualselect/cosine", "dualselect/task_reference_cosine"} <= set(steps[-1])
    assert [event["step"] for event in steps if "dualselect/refreshes" in event] == [3, 6]


def test_config_contains_every_setting_but_no_secret(run):
    text = (run.run_folder / "config.yaml").read_text()
    config = yaml.safe_load(text)
    assert "hf_secret" not in text
    assert config["method"] == "dualselect"
    assert config["task_token_fraction"] == 0.6
    assert config["learning_rate"] == 1e-2
    assert config["score_scaling"] == run.method.score_scaling  # resolved by the preset
    assert config["lr_scheduler_type"] == "linear"


def test_provenance_names_data_model_versions_and_seeds(run, samples, make_tiny_model):
    content = json.loads((run.run_folder / "provenance.json").read_text())
    assert content["data"]["task"] == {"rows": 40, "sha256": content_digest(samples(40, 1, "task"))}
    assert set(content["data"]) == {"task", "references", "evaluation task", "evaluation probe"}
    assert content["packages"]["torch"] == torch.__version__
    assert content["seeds"] == {"seed": 3, "data_seed": None}
    assert content["hardware"]["processes"] == 1


def test_the_samples_that_were_trained_on_are_known_afterwards(run, samples):
    keys = trained_prompts(run.run_folder)
    assert len(keys) == 40 + 10
    assert {prompt_key(prompt) for prompt in samples(40, 1, "task")["prompt"]} < keys
    assert not {prompt_key(prompt) for prompt in samples(4, 5)["prompt"]} & keys  # evaluation is not training
    assert trained_prompts(run.run_folder / "elsewhere") == frozenset()


def test_the_model_s_hash_depends_on_the_base_weights_alone(make_trainer, make_tiny_model, run):
    assert weights_hash(run.model) == weights_hash(make_trainer().model)
    assert weights_hash(run.model) != weights_hash(make_trainer(model=make_tiny_model(1)).model)


def test_a_new_run_replaces_what_an_old_one_logged(make_trainer, run):
    again = make_trainer("sft", max_steps=1, output_dir=run.run_folder)
    again.train()
    assert SelectionLog.read(run.run_folder)[0].num_rows == 0
    assert {event["step"] for event in read_metrics(run.run_folder / "metrics.jsonl")} == {1}


def _candidates(count, value=0.5):
    column = [value] * count
    return {"loss": column, "cosine": column, "score": column, "weight": column, "kept": [True] * count}


def _logged(folder, steps):
    log = SelectionLog(folder)
    for step in range(steps):
        log.add_tasks(step, 0.0, ["a", "b"], **_candidates(2), tokens=[3, 4], dropped_reason=[None, "non-finite"])
        log.flush()
    return sorted(path.name for path in (folder / "selection").iterdir())


def test_small_parts_are_merged_and_named_by_their_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("dualselect.runs.selection_log.MERGED_PARTS", 3)
    monkeypatch.setattr("dualselect.runs.selection_log.ROWS_PER_PART", 10)
    assert _logged(tmp_path, 10) == [
        "task-00000000-00000005.parquet",  # two merges of three steps, then it has more than 10 rows
        "task-00000006-00000008.parquet",
        "task-00000009-00000009.parquet",
    ]
    table = SelectionLog.read(tmp_path)[0]
    assert table["step"].to_pylist() == [step for step in range(10) for _ in "ab"]
    assert table["dropped_reason"].to_pylist() == [None, "non-finite"] * 10


def test_parts_that_a_crash_left_beside_their_merger_count_once(tmp_path, monkeypatch):
    small = _logged(tmp_path / "small", 3)
    monkeypatch.setattr("dualselect.runs.selection_log.MERGED_PARTS", 3)
    (merged,) = _logged(tmp_path / "merged", 3)
    folder = tmp_path / "small" / "selection"
    (folder / merged).write_bytes((tmp_path / "merged" / "selection" / merged).read_bytes())
    assert SelectionLog.read(tmp_path / "small")[0].num_rows == 6
    SelectionLog(tmp_path / "small").truncate(2)
    assert SelectionLog.read(tmp_path / "small")[0]["step"].to_pylist() == [0, 0, 1, 1]
    assert not {path.name for path in folder.iterdir()} & set(small)


def test_a_method_s_own_columns_are_in_the_log(tmp_path):
    log = SelectionLog(tmp_path)
    log.add_tasks(0, 0.0, ["a"], **_candidates(1), tokens=[3], dropped_reason=[None], surprise=torch.tensor([0.25]))
    log.flush()
    log.add_tasks(1, 0.0, ["b"], loss=[0.5], weight=[1.0], kept=[True], tokens=[3], dropped_reason=[None])
    log.flush()
    table = SelectionLog.read(tmp_path)[0]
    assert table["surprise"].to_pylist() == [0.25, None]
    assert table["cosine"].to_pylist() == [0.5, None]


def test_truncation_forgets_later_steps_only(tmp_path, monkeypatch):
    monkeypatch.setattr("dualselect.runs.selection_log.ROWS_PER_PART", 4)
    log = SelectionLog(tmp_path)
    for step in range(7):
        log.add_tasks(step, 0.0, ["a", "b"], **_candidates(2), tokens=[3, 4], dropped_reason=[None, None])
        log.add_table("references", step, ["r"], **_candidates(1))
        log.flush()
    SelectionLog(tmp_path).truncate(5)
    tasks, references = SelectionLog.read(tmp_path)
    assert tasks["step"].to_pylist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert references["step"].to_pylist() == [0, 1, 2, 3, 4]
    SelectionLog(tmp_path).truncate(0)
    assert not list((tmp_path / "selection").iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as draft:
            draft.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk"):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]
    assert path.read_text() == "old"


def test_metrics_cut_off_by_a_crash_are_read_up_to_there(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]


def test_logged_parquet_has_a_fixed_schema(run):
    schema = pq.read_schema(next((run.run_folder / "selection").glob("task-*")))
    assert {name: str(schema.field(name).type) for name in ("step", "id", "loss", "kept")} == {
        "step": "int32",
        "id": "string",
        "loss": "float",
        "kept": "bool",
    }

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dualselect.runs import Metric, Record, SuiteResult, Verdict
from dualselect.runs.values import VALUES, model_names, read_values, values_of, write_values


def test_a_value_is_a_row_with_its_meaning(make_result):
    first, second = values_of([make_result([1, None], 7)], "tuned", seed=7, strength="rho=0.5", stage="b").to_pylist()
    assert first == {
        **{
            "method": "tuned",
            "strength": "rho=0.5",
            "seed": 7,
            "stage": "b",
            "split": None,
            "suite": "unsafe",
            "kind": "safety",
        },
        **{"metric": "rules/refusal", "id": "p0", "category": "any", "planted": None, "value": 1.0},
        **{"title": "refusal rate", "better": "higher", "unit": "share"},
    }
    assert (second["id"], second["value"]) == ("p1", None)


def test_what_win_rates_need_to_know_is_there_but_of_a_kind_that_is_not_reported(make_judged):
    rows = values_of([make_judged(["safe", "answer", None])], "sft", seed=0).to_pylist()
    assert [(row["metric"], row["kind"], row["value"]) for row in rows] == [
        *(("rules/refusal", "safety", None) for _ in range(3)),
        *(("rules/safe", "answers", value) for value in (1.0, 0.0, None)),
    ]
    records = [Record("1", "?", answer="12345", baseline_answer="12", values={"c/win_rate": 1.0})]
    compared = SuiteResult("x", "comparison", "model", {}, {"c/win_rate": Metric("win rate", "higher")}, records)
    assert [(row["metric"], row["value"]) for row in values_of([compared], "m").to_pylist()] == [
        ("c/win_rate", 1.0),
        ("longer", 3.0),
    ]


def test_the_file_gives_back_the_table(make_result, tmp_path):
    values = values_of([make_result([1, None, 0.25])], "tuned", seed=2)
    write_values(values, tmp_path)
    assert read_values(tmp_path).equals(values)


def test_columns_that_an_older_version_did_not_write_are_null(tmp_path):
    old = {
        **{"method": ["sft"], "seed": [0], "suite": ["unsafe"], "metric": ["m"]},
        **{"id": ["a"], "value": [0.5], "category": ["any"]},
    }
    pq.write_table(pa.Table.from_pydict(old), tmp_path / "results.parquet")
    found = read_values(tmp_path)
    assert found.schema == VALUES
    (row,) = found.to_pylist()
    assert row == dict.fromkeys(VALUES.names) | {name: column[0] for name, column in old.items()}


@pytest.mark.parametrize("field", ["id", "category", "answer"])
def test_half_a_character_is_replaced_and_everything_written(tmp_path, field):
    record = Record(**{"id": "a", "prompt": "?", "values": {"m": 1.0}, field: "x\ud800y"})
    record.verdicts["rules"] = Verdict("answer", evidence="\udfff")
    result = SuiteResult("s", "safety", "model", {}, {"m": Metric("m", "higher")}, [record])
    (read,) = SuiteResult.read(result.write(tmp_path)).records
    assert getattr(read, field) == "x\ufffdy"
    assert read.verdicts["rules"].evidence == "\ufffd"
    write_values(values_of([result], "sft"), tmp_path)
    if field != "answer":
        assert read_values(tmp_path)[field].to_pylist() == ["x\ufffdy"]


def test_no_two_models_of_a_folder_share_a_name():
    def result(role, name, hash):
        return SuiteResult("s", "safety", role, {"name": name, "hash": hash}, {}, [])

    names = model_names(
        [
            result("model", "runs/mine", "11111111aaaa"),
            result("baseline", "org/other", "2"),
            result("baseline", "org/mine", "3"),
            result("baseline", "else/other", "44444444bbbb"),
            result("model", "runs/mine", "55555555cccc"),
            result("start", "org/base", "6"),
            result("model", "runs/mine", "11111111aaaa"),
        ]
    )
    assert names == {
        ("start", "6"): "start",
        ("baseline", "2"): "other",
        ("baseline", "3"): "mine",
        ("baseline", "44444444bbbb"): "other (44444444)",
        ("model", "11111111aaaa"): "mine (model)",
        ("model", "55555555cccc"): "mine (55555555)",
    }


def test_a_model_without_a_name_is_called_by_its_role():
    roles = ("baseline", "model", "start")
    names = model_names([SuiteResult("s", "safety", role, {}, {}, []) for role in roles])
    assert list(names.values()) == ["start", "baseline", "this run"]

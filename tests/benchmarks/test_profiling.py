"""`python -m benchmarks.profiling` on a tiny model."""

import json

import pytest

from benchmarks.profiling import main, table_of


def test_the_table_has_the_largest_and_the_sum_of_the_others():
    table = table_of({"sft": {"mm": 2.0, "add": 0.5, "mul": 0.25}, "plain": {"mm": 1.0, "exp": 0.125}}, rows=2)
    cells = [list(column.cells) for column in table.columns]
    assert cells == [
        ["mm", "add", "others", "all"],
        ["2.000", "0.500", "0.250", "2.750"],
        ["1.000", "0.000", "0.125", "1.125"],
    ]


@pytest.mark.slow
def test_every_peer_is_profiled(tmp_path, capsys):
    output = tmp_path / "profile.json"
    assert main(["--model", "random-tiny", "--device", "cpu", "--batches", "1", "--output", str(output)]) == 0
    found = json.loads(output.read_text())["seconds_a_step"]
    assert set(found) == {"sft", "plain", "dualselect"}
    for times in found.values():
        assert times["aten::mm"] > 0
        assert all(seconds > 0 for seconds in times.values())
    assert not any("Observed" in name for name in found["sft"])
    assert any("Observed" in name for name in found["dualselect"])
    assert "others" in capsys.readouterr().out


def test_bad_numbers_are_one_line(capsys):
    assert main(["--rows", "0"]) == 2
    assert "--rows is 0; give at least 1" in capsys.readouterr().err

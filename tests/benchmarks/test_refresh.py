"""`python -m benchmarks.refresh` in its quick form, and its figures by hand."""

import json

import pytest
import torch

from benchmarks.refresh import agreement, main
from dualselect.selection import Chosen, Scanned

pytestmark = pytest.mark.slow


def test_agreement_by_hand():
    """Of three references chosen, two are found; softmax weights at tau 1 are 4/7, 2/7 and 1/7."""
    score = torch.tensor([4.0, 1.0, 2.0, 0.5]).log()
    full = Chosen(torch.tensor([1.0, 1.0, 1.0, 0.0]) / 3, Scanned({"score": score}))
    found = agreement(full, Chosen(torch.tensor([1.0, 1.0, 0.0, 1.0]) / 3), tau=1.0)
    assert found == {"recall": pytest.approx(2 / 3), "weight": pytest.approx(5 / 7)}


def test_the_quick_form_measures_every_refresh(tmp_path):
    output = tmp_path / "refresh.json"
    assert main(["--quick", "--output", str(output)]) == 0
    written = json.loads(output.read_text())
    assert written["references"] == 40
    assert len(written["refreshes"]) == 3
    for refresh in written["refreshes"]:
        assert refresh["by_share"]["1.0"]["recall"] == 1  # the whole pool is scored
        assert refresh["by_share"]["1.0"]["cosine"] == pytest.approx(1, abs=1e-5)
        assert 0 <= refresh["by_share"]["0.25"]["recall"] <= 1
    assert set(written["means"]) == {"0.25", "1.0"}


def test_bad_numbers_are_one_line(capsys, tmp_path):
    assert main(["--pool", "3", "--output", str(tmp_path / "none.json")]) == 2
    assert "--pool is 3; give at least 10" in capsys.readouterr().err

import json

import pytest
from rich.console import Console

from dualselect.errors import ConfigError
from dualselect.quickstart import run as quickstart_run
from dualselect.quickstart.measure import REFUSAL, Measures
from dualselect.quickstart.run import Outcome
from dualselect.quickstart.settings import QuickstartSettings
from dualselect.quickstart.table import comparison_table
from dualselect.runs import Metric, Record, SuiteResult


def result(metric, values, unit="share"):
    records = [Record(str(number), "?", values={metric: value}) for number, value in enumerate(values)]
    return SuiteResult("suite", "probe", "model", {}, {metric: Metric(metric, "higher", unit)}, records)


def share(metric, successes, total):
    return result(metric, [1.0] * successes + [0.0] * (total - successes))


def outcome(refused, poison, seconds):
    safe = result("safe_nll", [1.0, 1.5] * 18, "nats")
    safe.metrics["safe_kl"] = Metric("KL", "lower", "nats")
    for record in safe.records:
        record.values["safe_kl"] = 0.5
    measures = Measures(
        share(REFUSAL, refused, 36),
        share(REFUSAL, 1, 24),
        safe,
        share("exact_match", 16, 64),
        result("task_nll", [0.2, 0.4] * 32, "nats"),
    )
    return Outcome(measures, poison, seconds)


@pytest.fixture
def outcomes():
    return {"aligned": outcome(36, 0, 0.0), "sft": outcome(9, 64, 80.0), "dualselect": outcome(35, 8, 88.0)}


def test_summary_contains_what_readers_rely_on(outcomes):
    summary = quickstart_run._summary(outcomes, 300.0, 7)
    assert summary["overhead"] == pytest.approx(1.1)
    assert (summary["seconds"], summary["seed"]) == (300.0, 7)
    for name in ("aligned", "sft", "dualselect"):
        assert set(summary[name]) == {
            "safe_nll",
            "safe_kl",
            "refusal_rate",
            "overrefusal_rate",
            "task_em",
            "task_nll",
            "poison_kept",
        }
        assert all(isinstance(value, int | float) for value in summary[name].values())
    assert summary["sft"]["refusal_rate"] == 0.25


def test_table_shows_rates_with_their_intervals(outcomes):
    console = Console(width=200, record=True)
    console.print(comparison_table(outcomes, quickstart_run._summary(outcomes, 300.0, 0)))
    text = console.export_text()
    assert "25% [14%, 41%] (36)" in text  # Wilson's interval of 9 in 36
    assert "1.250 [" in text
    assert "1.10" in text
    assert "plain SFT" in text


def test_an_unrelated_folder_is_not_cleared(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        quickstart_run._prepare_folder(tmp_path, QuickstartSettings())
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_an_earlier_quickstart_is_replaced(tmp_path):
    (tmp_path / "quickstart.json").write_text("{}")
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "sft").mkdir()
    quickstart_run._prepare_folder(tmp_path, QuickstartSettings(seed=5))
    assert not (tmp_path / "summary.json").exists()
    assert not (tmp_path / "sft").exists()
    assert json.loads((tmp_path / "quickstart.json").read_text())["seed"] == 5

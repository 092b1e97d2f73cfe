import json

import pytest
from rich.console import Console

from dualselect.errors import ConfigError
from dualselect.quickstart.measure import REFUSAL, Measures, Outcome
from dualselect.quickstart.run import quickstart
from dualselect.quickstart.settings import QuickstartSettings
from dualselect.quickstart.table import comparison_table, summary_of
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


def test_the_summary_has_the_figures_of_every_model(outcomes):
    same = {"safe_nll": 1.25, "safe_kl": 0.5, "overrefusal_rate": 1 / 24, "task_em": 0.25, "task_nll": 0.3}
    summary = summary_of(outcomes, 300.04, 7)
    for name, refused, poison in (("aligned", 36, 0), ("sft", 9, 64), ("dualselect", 35, 8)):
        assert summary.pop(name) == pytest.approx({**same, "refusal_rate": refused / 36, "poison_kept": poison})
    assert summary == {"seconds": 300.0, "overhead": 1.1, "seed": 7}


def test_table_shows_rates_with_their_intervals(outcomes):
    console = Console(width=200, record=True)
    console.print(comparison_table(outcomes, summary_of(outcomes, 300.0, 0)))
    text = console.export_text()
    assert "25% [14%, 41%] (36)" in text  # Wilson's interval of 9 in 36
    assert "1.250 [" in text
    assert "1.10" in text
    assert "plain SFT" in text


def test_an_unrelated_folder_is_not_cleared(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        quickstart(QuickstartSettings(output_dir=str(tmp_path), adapter="none"))
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_an_earlier_quickstart_is_replaced(tmp_path):
    (tmp_path / "quickstart.json").write_text("{}")
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "sft").mkdir()
    with pytest.raises(ConfigError, match="contains no adapter_config"):  # before anything new is made
        quickstart(QuickstartSettings(output_dir=str(tmp_path), adapter=str(tmp_path / "none"), seed=5))
    assert not (tmp_path / "summary.json").exists()
    assert not (tmp_path / "sft").exists()
    assert json.loads((tmp_path / "quickstart.json").read_text())["seed"] == 5

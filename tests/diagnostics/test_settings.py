"""Settings of a diagnostic from a file and flags."""

import pytest
import yaml

from dualselect.diagnostics.settings import build, parse_settings
from dualselect.errors import ConfigError


def test_flags_win_over_the_file_and_the_settings_written_down_make_the_same(tmp_path, values):
    path = tmp_path / "diagnose.yaml"
    path.write_text(yaml.safe_dump(values))
    settings = parse_settings(["--config", str(path), "--top_k", "5", "--strategies", "periodic-random"])
    assert settings.options.top_k == 5
    assert settings.options.strategies == ["periodic-random"]
    assert settings.options.sketch_size == 64
    assert settings.seed == 3
    training = settings.run.training
    assert (training.max_steps, training.learning_rate, training.warmup_steps) == (2, 1e-2, 0)
    assert training.output_dir == str(tmp_path / "diagnostic/warm-up")

    path.write_text(yaml.safe_dump(settings.plain()))
    assert parse_settings(["--config", str(path)]).plain() == settings.plain()


def test_a_batch_is_taken_in_passes_of_the_size_asked_for(values):
    training = build(values | {"batch_size": 12, "micro_batch_size": 4}).run.training
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (4, 3)


def test_an_unknown_key_is_named_with_its_place(tmp_path):
    path = tmp_path / "diagnose.yaml"
    path.write_text("seed: 0\ntopk: 3\n")
    with pytest.raises(ConfigError, match=r"diagnose.yaml:2: unknown setting 'topk'; did you mean 'top_k'"):
        parse_settings(["--config", str(path)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probe": None}, "there are no probe data: give --probe"),
        ({"metric": "adam", "start": "fresh"}, "metric 'adam' needs the second moments"),
        ({"strategies": ["conflict"]}, "unknown value 'conflict' of strategies; did you mean 'static-conflict'"),
        ({"corrections": ["preserve"]}, "unknown value 'preserve' of corrections"),
        ({"top_k": 0}, "top_k is 0; give at least 1"),
        ({"batch_size": 9, "micro_batch_size": 4}, "batch_size is 9, not a multiple of micro_batch_size"),
        ({"strategies": []}, "strategies is empty"),
    ],
)
def test_what_cannot_be_is_refused(values, change, message):
    with pytest.raises(ConfigError, match=message):
        build(values | change)

"""Settings from file and flags."""

import pytest

from dualselect.cli.config_file import read_config
from dualselect.cli.settings import parse_settings
from dualselect.errors import ConfigError
from dualselect.methods import DualSelect, Random


def parse(path, *flags):
    return parse_settings(["--config", str(path), *flags])


def test_a_file_sets_all_four_kinds_of_settings(config):
    settings = parse(config)
    assert settings.method == DualSelect(rho=0.3, task_warmup_steps=1)
    assert settings.training.learning_rate == 0.01
    assert settings.training.eval_strategy == "no"
    assert settings.training.save_steps == 2
    assert settings.model.lora_target_modules == ["q_proj", "v_proj"]
    assert list(settings.data.evaluation_sources) == ["probe"]


def test_flags_win_over_the_file_and_the_file_over_defaults(config):
    settings = parse(
        config, "--rho", "0.7", "--learning-rate=3e-4", "--lora_target_modules", "k_proj", "o_proj", "--bf16"
    )
    assert settings.method.rho == 0.7
    assert settings.training.learning_rate == 3e-4
    assert settings.training.bf16
    assert settings.model.lora_target_modules == ["k_proj", "o_proj"]
    assert settings.training.loss_average == "sample"


def test_another_method_by_flag_ignores_the_options_of_the_one_in_the_file(config):
    settings = parse(config, "--method", "random", "--task_token_fraction", "0.5")
    assert settings.method == Random(task_token_fraction=0.5)


def test_options_may_stand_in_a_mapping(config):
    config.write_text(config.read_text().replace("rho: 0.3", "method_options:\n  rho: 0.4\n  refresh: steps"))
    assert parse(config).method.refresh == "steps"
    assert parse(config).method.rho == 0.4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("learning_rat: 1", r"run\.yaml:\d+: unknown setting 'learning_rat'; did you mean 'learning_rate'"),
        ("weight_decay: much", r"run\.yaml:\d+: .*weight_decay.*'much'"),
        ("rho: 0.5", r"run\.yaml:\d+: 'rho' is set a second time; it is set before in .*run\.yaml:\d+"),
        ("num_train_epochs:", r"run\.yaml:\d+: 'num_train_epochs' has no value"),
        ("safe_batch_size: 3", r"'safe_batch_size': method 'dualselect' has no such option; .*choose method safegrad"),
        ("refresh: stepps", r"refresh.*'stepps'"),
        ("correction: [", r"run\.yaml:\d+: not valid YAML"),
        ("seed: [1, 2", r"run\.yaml:\d+: not valid YAML"),
    ],
)
def test_a_bad_line_is_named(config, line, message):
    config.write_text(config.read_text() + line + "\n")
    with pytest.raises(ConfigError, match=message):
        parse(config)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning-rat", "1"], "unknown option '--learning-rat'; did you mean '--learning_rate'"),
        (["--rho"], "--rho"),
        (["--method", "dualselct"], "did you mean 'dualselect'"),
        (["--safe_batch_size", "2"], "choose method safegrad"),
        (["--rho=-1"], "rho is -1"),
        (["stray"], "unexpected argument 'stray'"),
        (["--evaluation", "probe"], "'probe' is not NAME=SOURCE"),
        (["--task_limit", "0"], "task_limit is 0"),
        (["--prompt_overlap", "drp"], "drp"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
def test_a_bad_flag_is_named(config, flags, message):
    with pytest.raises(ConfigError, match=message):
        parse(config, *flags)


def test_numbers_and_words_are_read_as_yaml_1_2_does(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: 1e-4\nb: no\nc: off\nd: true\ne: 12\nf: 1.5\ng: null\nh-i: x\n")
    values = {name: entry.value for name, entry in read_config(str(path)).items()}
    assert values == {"a": 1e-4, "b": "no", "c": "off", "d": True, "e": 12, "f": 1.5, "g": None, "h_i": "x"}


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="holds no mapping"):
        read_config(str(path))


def test_yaml_makes_no_objects(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_config(str(path))

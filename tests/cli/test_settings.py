"""Settings from file and flags."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from dualselect.errors import ConfigError
from dualselect.experiments.run_data import load_run_data, set_sources
from dualselect.experiments.run_model import quantization_config
from dualselect.experiments.settings import parse_settings
from dualselect.methods import DualSelect, Method, Random
from dualselect.settings.config_file import read_config


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


def test_options_may_be_in_a_mapping(config):
    config.write_text(config.read_text().replace("rho: 0.3", "method_options:\n  rho: 0.4\n  refresh: steps"))
    assert parse(config).method.refresh == "steps"
    assert parse(config).method.rho == 0.4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("learning_rat: 1", r"run\.yaml:\d+: unknown setting 'learning_rat'; did you mean 'learning_rate'"),
        ("weight_decay: much", r"run\.yaml:\d+: .*weight_decay.*'much'"),
        ("rho: 0.5", r"run\.yaml:\d+: 'rho' is set a second time; it is already set in .*run\.yaml:\d+"),
        ("num_train_epochs:", r"run\.yaml:\d+: 'num_train_epochs' has no value"),
        (
            "safe_batch_size: 3",
            r"'safe_batch_size': method 'dualselect' has no such option; .*method .*safegrad",
        ),
        ("refresh: stepps", r"refresh.*'stepps'"),
        ("resume: true", r"run\.yaml:\d+: unknown setting 'resume'"),
        ("config: x.yaml", r"run\.yaml:\d+: unknown setting 'config'"),
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
        (["--safe_batch_size", "2"], "choose method .*safegrad"),
        (["--rho=-1"], "rho is -1"),
        (["stray"], "unexpected argument 'stray'"),
        (["--evaluation", "probe"], "'probe' is not NAME=SOURCE"),
        (["--pools", "harmful"], "pools: 'harmful' is not NAME=SOURCE"),
        (["--pools", "harmful=a.jsonl", "harmful=b.jsonl"], "two sets are called 'harmful'"),
        (["--pools", "references=a.jsonl"], "give it as --references"),
        (["--pools_limit", "0"], "pools_limit is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--gradient_accumulation_steps", "0"], "gradient_accumulation_steps is 0; give at least 1"),
        (["--task_limit", "0"], "task_limit is 0"),
        (["--prompt_overlap", "drp"], "drp"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
def test_a_bad_flag_is_named(config, flags, message):
    with pytest.raises(ConfigError, match=message):
        parse(config, *flags)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["q_proj"], ["q_proj"]),
        (["query_key_value"], ["query_key_value"]),
        (["attention.dense"], ["attention.dense"]),
        (["q_proj", "v_proj"], ["q_proj", "v_proj"]),
        (["all-linear"], "all-linear"),  # PEFT's word for every linear layer
        ([r".*\.q_proj"], r".*\.q_proj"),  # a pattern for whole names
    ],
)
def test_a_lora_target_list_of_one_stays_a_list_unless_it_is_a_pattern(config, given, kept):
    assert parse(config, "--lora_target_modules", *given).model.lora_target_modules == kept
    listed = ", ".join(f"'{name}'" for name in given)
    config.write_text(
        config.read_text().replace("lora_target_modules: [q_proj, v_proj]", f"lora_target_modules: [{listed}]")
    )
    assert parse(config).model.lora_target_modules == kept


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [([], torch.float32), (["--bf16", "true"], torch.bfloat16), (["--dtype", "float16"], torch.float16)],
)
def test_a_model_in_4_bit_computes_in_the_dtype_of_training_unless_one_is_given(config, monkeypatch, flags, dtype):
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    settings = parse(config, "--load_in_4bit", "true", *flags)
    before = settings.model.dtype
    assert quantization_config(settings).bnb_4bit_compute_dtype == dtype
    assert settings.model.dtype == before
    assert quantization_config(parse(config)) is None


def test_4_bit_without_an_adapter_is_refused(config):
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ConfigError, match="nothing to train"):
        quantization_config(parse(config, "--load_in_4bit", "true", "--no_use_peft"))


def test_pools_are_named_by_flags_or_by_a_mapping(config, data):
    by_flag = parse(config, "--pools", "harmful=a.jsonl", "utility=b.jsonl", "--pools_limit", "3")
    assert by_flag.data.pool_sources == {"harmful": "a.jsonl", "utility": "b.jsonl"}
    config.write_text(config.read_text() + f"pools:\n  harmful: {data / 'probe.jsonl'}\n")
    settings = parse(config)
    assert {role: source.source for role, source in set_sources(settings).items()} == {
        "task": str(data / "task.jsonl"),
        "references": str(data / "safe.jsonl"),
        "harmful": str(data / "probe.jsonl"),
        "evaluation probe": str(data / "probe.jsonl"),
    }
    loaded = load_run_data(settings)
    assert list(loaded.pools) == ["harmful"]
    assert len(loaded.pools["harmful"]) == 4


def test_a_streamed_task_is_read_as_far_as_the_steps_train_on_it(config):
    steps = ["--max_steps", "1", "--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "3"]
    settings = parse(config, "--task_streaming", "true", *steps)
    assert len(load_run_data(settings).task) == 3
    with pytest.raises(ConfigError, match="needs max_steps"):
        set_sources(parse(config, "--task_streaming", "true", "--max_steps=-1"))
    with pytest.raises(ConfigError, match="leave one out"):
        parse(config, "--task_streaming", "true", "--task_limit", "3")


def test_a_pool_that_the_method_lacks_is_named_with_flag_and_key(config, monkeypatch):
    monkeypatch.setattr(DualSelect, "pools", ("harmful", "utility"))
    with pytest.raises(
        ConfigError, match="needs utility: give --pools utility=SOURCE, or `utility: SOURCE` below `pools:`"
    ):
        set_sources(parse(config, "--pools", "harmful=a.jsonl"))
    monkeypatch.setattr(DualSelect, "pools", ("references",))
    config.write_text("".join(line for line in config.read_text().splitlines(True) if "references" not in line))
    with pytest.raises(ConfigError, match="needs references: give --references, or `references:` in the configuration"):
        set_sources(parse(config))


def test_an_option_called_like_a_setting_is_refused(config, monkeypatch):
    @dataclass
    class Clashing(Method):
        name: ClassVar[str] = "clashing"

        learning_rate: float = 1.0

    monkeypatch.setattr("dualselect.methods.get", lambda name: Clashing)
    with pytest.raises(ConfigError, match="method 'clashing' has an option 'learning_rate'"):
        parse(config)


def test_numbers_and_words_are_read_as_yaml_1_2_does(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: 1e-4\nb: no\nc: off\nd: true\ne: 12\nf: 1.5\ng: null\nh-i: x\n")
    values = {name: entry.value for name, entry in read_config(str(path)).items()}
    assert values == {"a": 1e-4, "b": "no", "c": "off", "d": True, "e": 12, "f": 1.5, "g": None, "h_i": "x"}


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="not a mapping"):
        read_config(str(path))


def test_yaml_makes_no_objects(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_config(str(path))

import json
import shutil
from dataclasses import replace

import pytest
import torch
from peft import LoHaConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer, LlamaForCausalLM

from dualselect.errors import ConfigError
from dualselect.evaluation import probe_answers
from dualselect.models import GenerationSettings, LocalModels, generate_answers, local, open_target
from dualselect.models.cache import AnswerCache

pytestmark = pytest.mark.slow

PROMPTS = [[{"role": "user", "content": text}] for text in ("how many apples?", "the quick fox", "why not")]
SAMPLES = [{"prompt": prompt, "completion": [{"role": "assistant", "content": "there are"}]} for prompt in PROMPTS]


def alone(base, adapter=None):
    """The model loaded by itself, with nothing shared."""
    model = LlamaForCausalLM.from_pretrained(base)
    return (PeftModel.from_pretrained(model, adapter) if adapter else model).eval()


def answers_of(model, base):
    tokenizer = AutoTokenizer.from_pretrained(base)
    return generate_answers(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=2, show_progress=False)


def texts(answers):
    return [answer.text for answer in answers]


def logits_of(model):
    with torch.no_grad():
        return model(torch.arange(3, 30)[None]).logits


def test_adapters_that_take_turns_equal_each_one_alone(tiny_model_dir, make_adapter, settings):
    folders = [make_adapter(f"adapter-{seed}", seed) for seed in (1, 2)]
    models = LocalModels()
    targets = [models.open(str(folder)) for folder in folders]
    for target, folder in [*zip(targets, folders, strict=True)] * 2:
        expected = alone(tiny_model_dir, folder)
        assert torch.equal(logits_of(target.model), logits_of(expected))
        assert texts(target.generate(PROMPTS, settings)) == answers_of(expected, tiny_model_dir)
    assert targets[0].generate(PROMPTS, settings) != targets[1].generate(PROMPTS, settings)


def test_a_base_is_loaded_once(tiny_model_dir, make_adapter, monkeypatch):
    loaded, load = [], LlamaForCausalLM.from_pretrained.__func__
    folders = [make_adapter(f"adapter-{seed}", seed) for seed in (1, 2)]
    monkeypatch.setattr(
        LlamaForCausalLM,
        "from_pretrained",
        classmethod(lambda cls, place, *args, **kwargs: loaded.append(place) or load(cls, place, *args, **kwargs)),
    )
    models = LocalModels()
    targets = [models.open(str(folder)) for folder in (*folders, tiny_model_dir)]
    assert [target.start() is None for target in targets] == [False, False, True]
    assert loaded == [str(tiny_model_dir)]


def test_with_the_adapter_off_the_start_equals_the_base(tiny_model_dir, make_adapter, settings):
    target = LocalModels().open(str(make_adapter("adapter", 1)))
    start, base = target.start(), alone(tiny_model_dir)
    target.generate(PROMPTS, settings)
    assert torch.equal(logits_of(start.model), logits_of(base))
    assert texts(start.generate(PROMPTS, settings)) == answers_of(base, tiny_model_dir)
    assert not torch.equal(logits_of(target.model), logits_of(base))
    assert start.name == str(tiny_model_dir)


def test_kl_to_the_start_equals_kl_between_separate_models(tiny_model_dir, make_adapter):
    folder = make_adapter("adapter", 1)
    target = LocalModels().open(str(folder))
    start = target.start()
    expected = probe_answers(
        alone(tiny_model_dir, folder), target.tokenizer, SAMPLES, base=alone(tiny_model_dir), show_progress=False
    )
    assert min(probe.kl for probe in expected) > 0
    for base in (start.model, target.model):  # a view of the start, or the target's own switch
        probes = probe_answers(target.model, target.tokenizer, SAMPLES, base=base, show_progress=False)
        assert [probe.kl for probe in probes] == pytest.approx([probe.kl for probe in expected], abs=1e-6)


def test_the_model_itself_can_be_had_with_the_adapter_on(tiny_model_dir, make_adapter):
    folder = make_adapter("adapter", 1)
    models = LocalModels()
    target = models.open(str(folder))
    models.open(str(make_adapter("other", 2)))
    with target.model.switched() as model:
        assert isinstance(model, PeftModel)
        assert torch.equal(logits_of(model), logits_of(alone(tiny_model_dir, folder)))


def test_adapters_of_another_type_get_a_base_of_their_own(tiny_model_dir, make_adapter, tmp_path):
    lora = make_adapter("lora", 1)
    torch.manual_seed(3)
    config = LoHaConfig(r=2, target_modules=["q_proj"], init_weights=False)
    get_peft_model(LlamaForCausalLM.from_pretrained(tiny_model_dir), config).save_pretrained(tmp_path / "loha")
    models = LocalModels()
    for folder in (lora, tmp_path / "loha"):
        found = logits_of(models.open(str(folder)).model)
        assert torch.equal(found, logits_of(alone(tiny_model_dir, folder)))


def test_an_adapter_that_alters_its_base_leaves_others_alone(tiny_model_dir, make_adapter):
    altering = make_adapter("pissa", 1, init_lora_weights="pissa")
    models = LocalModels()
    target, plain = models.open(str(altering)), models.open(str(tiny_model_dir))
    base = logits_of(alone(tiny_model_dir))
    assert torch.equal(logits_of(plain.model), base)
    assert torch.equal(logits_of(target.start().model), base)


def test_the_tokenizer_of_the_run_is_preferred(tiny_model_dir, make_adapter, tiny_tokenizer):
    folder = make_adapter("adapter", 1)
    before = LocalModels().open(str(folder))
    assert before.tokenizer.chat_template == tiny_tokenizer.chat_template
    own = AutoTokenizer.from_pretrained(tiny_model_dir)
    own.chat_template = "{{ messages[0]['content'] }}"
    own.save_pretrained(folder)
    after = LocalModels().open(str(folder))
    assert after.tokenizer.chat_template == own.chat_template
    assert after.identity["hash"] != before.identity["hash"]


def test_the_hash_follows_content_and_not_place(tiny_model_dir, make_adapter, make_tiny_model, tmp_path):
    hashes = {}
    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(tiny_model_dir, moved)
    shutil.copytree(tiny_model_dir, other)
    make_tiny_model(5).save_pretrained(other)
    same = [open_target(str(make_adapter("a", 1))), open_target(str(make_adapter("b", 1, base=moved)))]
    assert same[0].identity["hash"] == same[1].identity["hash"]
    hashes["adapter"] = same[0].identity["hash"]
    hashes["other weights"] = open_target(str(make_adapter("c", 2))).identity["hash"]
    hashes["other base"] = open_target(str(make_adapter("d", 1, base=other))).identity["hash"]
    hashes["other scale"] = open_target(str(make_adapter("e", 1, lora_alpha=99))).identity["hash"]
    hashes["other dtype"] = open_target(str(tmp_path / "a"), dtype="bfloat16").identity["hash"]
    hashes["base"] = open_target(str(tiny_model_dir)).identity["hash"]
    assert len(set(hashes.values())) == len(hashes)


def test_the_start_has_the_identity_of_its_base(tiny_model_dir, make_adapter, settings):
    target = open_target(str(make_adapter("adapter", 1)))
    target.generate(PROMPTS, settings)
    target.tokenizer(["a", "long text"], padding=True, truncation=True)  # leaves its traces in the tokenizer
    assert target.start().identity == open_target(str(tiny_model_dir)).identity


def test_the_weights_keep_their_dtype_unless_another_is_asked_for(
    tiny_model_dir, make_tiny_model, tmp_path, monkeypatch
):
    shutil.copytree(tiny_model_dir, tmp_path / "half")
    make_tiny_model().to(torch.bfloat16).save_pretrained(tmp_path / "half")
    models = LocalModels(device="cpu")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert models.open(str(tmp_path / "half")).model.dtype == torch.float32  # where bfloat16 would be emulated
    models.clear()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert models.open(str(tmp_path / "half")).model.dtype == torch.bfloat16
    assert models.open(str(tmp_path / "half"), dtype="float32").model.dtype == torch.float32
    with pytest.raises(ConfigError, match="dtype is 'int3'; choose one of auto, bfloat16, float16, float32"):
        models.open(str(tmp_path / "half"), dtype="int3")


def test_a_base_named_by_a_hub_id_is_resolved(tiny_model_dir, make_adapter):
    folder = make_adapter("adapter", 1)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "lab/tiny"}))
    target = open_target(str(folder), resolve={"lab/tiny": str(tiny_model_dir), str(folder): str(folder)}.get)
    assert torch.equal(logits_of(target.model), logits_of(alone(tiny_model_dir, folder)))
    assert target.identity["base"] == target.start().name == "lab/tiny"


def test_an_adapter_of_another_architecture_is_refused_and_leaves_no_trace(tiny_model_dir, make_adapter, tmp_path):
    good = make_adapter("good", 1)
    bad = make_adapter("bad", 2, target_modules=["q_proj", "gate_proj"], r=2)
    config = json.loads((bad / "adapter_config.json").read_text())
    (bad / "adapter_config.json").write_text(json.dumps({**config, "r": 3}))
    deeper = make_adapter("deeper", 3)
    config = json.loads((deeper / "adapter_config.json").read_text())
    (deeper / "adapter_config.json").write_text(json.dumps({**config, "layers_to_transform": [0]}))
    models = LocalModels()
    plain = models.open(str(tiny_model_dir))
    for folder in (bad, deeper):
        with pytest.raises(ConfigError, match=f"{folder}: the adapter does not fit its base model"):
            models.open(str(folder))
        assert torch.equal(logits_of(plain.model), logits_of(alone(tiny_model_dir)))
    target = models.open(str(good))
    with pytest.raises(ConfigError, match="does not fit"):
        models.open(str(bad))
    assert torch.equal(logits_of(target.model), logits_of(alone(tiny_model_dir, good)))
    assert torch.equal(logits_of(plain.model), logits_of(alone(tiny_model_dir)))


def test_cleared_models_are_loaded_again(tiny_model_dir):
    models = LocalModels()
    first = models.open(str(tiny_model_dir)).model.get_input_embeddings()
    assert models.open(str(tiny_model_dir)).model.get_input_embeddings() is first
    models.clear()
    assert models.open(str(tiny_model_dir)).model.get_input_embeddings() is not first


def test_sampling_settings_reach_the_model(tiny_model_dir):
    target = open_target(str(tiny_model_dir))
    drawn = [
        target.generate(PROMPTS, GenerationSettings(max_new_tokens=8, temperature=temperature, top_p=top_p, seed=seed))
        for temperature, top_p, seed in [(1.0, 1.0, 0), (1.0, 1.0, 1), (3.0, 1.0, 0), (1.0, 0.2, 0)]
    ]
    assert len({tuple(texts(answers)) for answers in drawn}) == len(drawn)


def test_a_template_that_writes_the_date_writes_that_of_the_start(tiny_model_dir, tmp_path, settings):
    """Seconds stand for days: what is asked later is the same prompt, and a later run asks for answers of its own."""
    shutil.copytree(tiny_model_dir, tmp_path / "dated")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = "{{ strftime_now('%S %f') }}" + tokenizer.chat_template
    tokenizer.save_pretrained(tmp_path / "dated")
    cache = AnswerCache(tmp_path / "cache")
    for run in (1, 2):
        target = LocalModels(cache=cache).open(str(tmp_path / "dated"))
        for _ in range(2):
            target.generate(PROMPTS[:1], settings)
            assert len(cache.parts()) == run


def test_thinking_is_passed_to_the_template_and_makes_another_prompt(tiny_model_dir, settings, monkeypatch):
    target = LocalModels().open(str(tiny_model_dir))
    target.tokenizer.chat_template = (
        "{{ messages[0]['content'] }}{% if enable_thinking is defined and not enable_thinking %} no thought{% endif %}"
    )
    seen = []
    monkeypatch.setattr(
        local, "encode_rendered", lambda tokenizer, text: seen.append(text) or tokenizer(text).input_ids
    )
    for thinking in (None, True, False):
        target.generate(["why"], replace(settings, thinking=thinking))
    assert seen == ["why", "why", "why no thought"]

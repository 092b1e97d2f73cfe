import sys
from types import ModuleType, SimpleNamespace

import pytest

from dualselect.errors import ConfigError
from dualselect.models import GenerationSettings, LocalModels, VllmEngines, open_target
from dualselect.models.cache import AnswerCache

PROMPTS = [[{"role": "user", "content": f"prompt {number}"}] for number in range(300)]


class FakeEngine:
    """Answers as vLLM's engine does, and remembers what it was asked."""

    made: list["FakeEngine"]
    tokenizer = None

    def __init__(self, model, dtype, **options):
        self.model, self.dtype, self.options, self.calls = model, dtype, options, []
        self.made.append(self)

    def chat(self, messages, sampling_params, *, use_tqdm, lora_request, chat_template, chat_template_kwargs):
        self.calls.append((messages, sampling_params, lora_request, chat_template, chat_template_kwargs))
        tokens = [self.tokenizer(f" to {turns[-1]['content']}\n")["input_ids"] for turns in messages]
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=row)]) for row in tokens]


@pytest.fixture
def engines(monkeypatch, tiny_tokenizer):
    """Return the list of engines that the fake vLLM has made."""
    FakeEngine.made, FakeEngine.tokenizer = [], tiny_tokenizer
    vllm, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    vllm.LLM, vllm.__version__ = FakeEngine, "0.99"
    vllm.SamplingParams = lambda **options: options
    request.LoRARequest = lambda name, number, path: (name, number, path)
    for name, module in {"vllm": vllm, "vllm.lora": lora, "vllm.lora.request": request}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return FakeEngine.made


def test_a_model_is_answered_for_in_parts_that_are_kept(engines, tiny_model_dir, tmp_path, tiny_tokenizer):
    cache = AnswerCache(tmp_path)
    target = open_target(f"vllm:{tiny_model_dir}", models=LocalModels(cache=cache))
    settings = GenerationSettings(max_new_tokens=9, system="be kind")
    assert target.generate(PROMPTS, settings) == [f"to prompt {number}" for number in range(300)]
    engine = engines[0]
    assert [len(messages) for messages, *_ in engine.calls] == [256, 44]
    assert engine.calls[0][0][0] == [{"role": "system", "content": "be kind"}, *PROMPTS[0]]
    end = tiny_tokenizer.eos_token_id  # that of the template
    sampling = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 9, "seed": None, "stop_token_ids": [end]}
    assert engine.calls[0][1] == sampling
    assert engine.calls[0][2:] == (None, tiny_tokenizer.chat_template, None)
    assert (engine.model, engine.options) == (str(tiny_model_dir), {})
    target.generate(PROMPTS, settings)
    assert len(engine.calls) == 2


def test_adapters_share_the_engine_of_their_base(engines, tiny_model_dir, make_adapter):
    shared = VllmEngines()
    folders = [make_adapter("a", 1, r=12), make_adapter("b", 2)]
    targets = [open_target(f"vllm:{folder}", engines=shared) for folder in (*folders, tiny_model_dir)]
    for target in targets:
        target.generate(PROMPTS[:1], GenerationSettings(temperature=0.5, top_p=0.9, seed=3))
    (engine,) = engines
    assert engine.options == {"enable_lora": True, "max_lora_rank": 16}
    requests = [request for _, _, request, *_ in engine.calls]
    assert [request and request[2] for request in requests] == [*map(str, folders), None]
    assert requests[0][1] != requests[1][1]
    sampling = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 256, "seed": 3}
    assert engine.calls[0][1] == sampling | {"stop_token_ids": [FakeEngine.tokenizer.eos_token_id]}


def test_its_answers_are_not_taken_for_those_of_transformers(engines, tiny_model_dir, make_adapter):
    specs = [str(tiny_model_dir), f"vllm:{tiny_model_dir}", f"vllm:{make_adapter('a')}"]
    hashes = {open_target(spec).identity["hash"] for spec in specs}
    assert len(hashes) == 3


@pytest.mark.parametrize("options", [{"use_dora": True}, {"bias": "all"}, {"r": 1000}])
def test_adapters_that_it_cannot_use_are_refused(engines, make_adapter, options):
    with pytest.raises(ConfigError, match="is no plain LoRA of rank 1 to 512"):
        open_target(f"vllm:{make_adapter('a', **options)}")


def test_without_the_package_it_says_so(monkeypatch, tiny_model_dir):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match="vllm: is not installed"):
        open_target(f"vllm:{tiny_model_dir}")

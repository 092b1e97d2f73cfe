import sys
from types import ModuleType, SimpleNamespace

import pytest

from dualselect.errors import ConfigError
from dualselect.models import GenerationSettings, LocalModels, VllmEngines, open_target
from dualselect.models.cache import AnswerCache
from dualselect.models.generation import encode_prompt
from dualselect.models.thoughts import Answer

PROMPTS = [[{"role": "user", "content": f"prompt {number}"}] for number in range(300)]


class FakeEngine:
    """Answers as vLLM's engine does, and remembers what it was asked."""

    made: list["FakeEngine"]
    tokenizer = None

    def __init__(self, model, dtype, **options):
        self.model, self.dtype, self.options, self.calls = model, dtype, options, []
        self.made.append(self)

    def generate(self, prompts, sampling_params, *, use_tqdm, lora_request):
        prompts = [prompt["prompt_token_ids"] for prompt in prompts]
        self.calls.append((prompts, sampling_params, lora_request))
        outputs = [SimpleNamespace(token_ids=tuple(row[-3:]), finish_reason="length") for row in prompts]
        return [SimpleNamespace(outputs=[output]) for output in outputs]


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
    asked = [encode_prompt(tiny_tokenizer, [{"role": "system", "content": "be kind"}, *turns]) for turns in PROMPTS]
    ends = [tiny_tokenizer.decode(row[-3:], skip_special_tokens=True).strip() for row in asked]
    answers = target.generate(PROMPTS, settings)
    assert answers == [Answer(end, "length") for end in ends]
    engine = engines[0]
    assert [prompts for prompts, *_ in engine.calls] == [asked[:256], asked[256:]]
    end = tiny_tokenizer.eos_token_id  # that of the template
    sampling = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 9, "seed": None, "stop_token_ids": [end]}
    assert engine.calls[0][1:] == (sampling, None)
    assert (engine.model, engine.options) == (str(tiny_model_dir), {})
    assert target.generate(PROMPTS, settings) == answers
    assert len(engine.calls) == 2


def test_adapters_share_the_engine_of_their_base(engines, tiny_model_dir, make_adapter):
    shared = VllmEngines()
    folders = [make_adapter("a", 1, r=12), make_adapter("b", 2)]
    targets = [open_target(f"vllm:{folder}", engines=shared) for folder in (*folders, tiny_model_dir)]
    for target in targets:
        target.generate(PROMPTS[:1], GenerationSettings(temperature=0.5, top_p=0.9, seed=3))
    (engine,) = engines
    assert engine.options == {"enable_lora": True, "max_lora_rank": 16}
    requests = [request for _, _, request in engine.calls]
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
    with pytest.raises(ConfigError, match="not a plain LoRA of rank 1 to 512"):
        open_target(f"vllm:{make_adapter('a', **options)}")


def test_without_the_package_it_says_so(monkeypatch, tiny_model_dir):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match="vllm: is not installed"):
        open_target(f"vllm:{tiny_model_dir}")

"""Tiny random Llamas, tokenizers with chat templates and a stub of a served model: no test needs a network."""

import gc
import json
import os
import threading

# Before anything imports torch or transformers: tests are small, and many processes may share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hypothesis
import pyarrow as pa
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dualselect.registry import Registry
from dualselect.runs import Metric, Record, SuiteResult
from dualselect.runs.values import values_of

# How long an example takes says something about the machine, not about the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

VOCAB_SIZE = 128
_SPECIAL = ["<pad>", "<end>", "<unk>"]
_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
_CORPUS = ["system: user: assistant: the quick brown fox asks how many apples are there in all and why not"]


def pytest_collection_finish() -> None:
    """Leave what the imports made out of the garbage collection that every training run begins with."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _deterministic_torch() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of 128 tokens that covers ASCII and has a chat template."""
    core = Tokenizer(tokenizer_models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    printable = [core.pre_tokenizer.pre_tokenize_str(chr(code))[0][0] for code in (10, *range(32, 127))]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=_SPECIAL, initial_alphabet=printable, show_progress=False
    )
    core.train_from_iterator(_CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", model_max_length=512
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def build_model(seed: int = 0, *, tied: bool = False, **changes: Any) -> LlamaForCausalLM:
    """Return a random fp32 Llama of two layers; equal seeds give equal weights. `changes` go to its configuration."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        # Wider than the usual 0.02, so that losses and gradients differ between samples.
        "initializer_range": 0.2,
        "tie_word_embeddings": tied,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
    }
    return LlamaForCausalLM(LlamaConfig(**settings | changes))


@pytest.fixture
def make_tiny_model() -> Callable[..., LlamaForCausalLM]:
    """Return a function `(seed=0, *, tied=False) -> model`."""
    return build_model


@pytest.fixture
def tiny_model() -> LlamaForCausalLM:
    """Return a random Llama whose embedding and head are apart."""
    return build_model()


@pytest.fixture
def tied_tiny_model() -> LlamaForCausalLM:
    """Return a random Llama whose embedding is also its head."""
    return build_model(tied=True)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that `from_pretrained` takes: the untied model with its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    build_model().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_run(tiny_model_dir: Path) -> dict[str, Any]:
    """Return the settings, as a YAML file has them, of a short run on that model: no data, method or folder yet."""
    return {
        "model_name_or_path": str(tiny_model_dir),
        "learning_rate": 3e-2,
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "logging_steps": 1,
        "eval_strategy": "no",
        "lora_r": 4,
        "lora_target_modules": ["q_proj", "v_proj"],
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
    }


@pytest.fixture
def look_anew(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function after which the registries given look for entry points anew, until the test ends."""

    def forget(*registries: Registry[Any]) -> None:
        for registry in registries:
            monkeypatch.setattr(registry, "_found", dict(registry.items()))
            monkeypatch.setattr(registry, "_faults", {})
            monkeypatch.setattr(registry, "_complete", False)

    return forget


_WORDS = ["<pad>", "<end>", "<unk>", "user", "assistant", ":", "red", "blue", "green"]
_WORDS += ["one", "two", "three", "four", "five", "six"]
_WORD_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + ' <end> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(tokenizer_models.WordLevel({word: index for index, word in enumerate(_WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")
    made.chat_template = _WORD_TEMPLATE
    return made


def _word_model(seed: int) -> LlamaForCausalLM:
    return build_model(
        seed,
        vocab_size=len(_WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        initializer_range=0.5,
        bos_token_id=1,
    )


@pytest.fixture
def make_model() -> Callable[[int], LlamaForCausalLM]:
    """Return a function from a seed to a model; equal seeds give equal weights."""
    return _word_model


@pytest.fixture
def model() -> LlamaForCausalLM:
    return _word_model(0)


@pytest.fixture
def make_adapter(tmp_path: Path, tiny_model_dir: Path) -> Callable[..., Path]:
    """Return a function `(name, seed=0, *, base=None, **options of LoraConfig) -> folder of a random adapter`."""

    def make(name: str, seed: int = 0, *, base: Path | str | None = None, **options: object) -> Path:
        model = LlamaForCausalLM.from_pretrained(base or tiny_model_dir)
        torch.manual_seed(seed)
        settings = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, **options}
        get_peft_model(model, LoraConfig(**settings)).save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


#: (status, headers, body); a body that is text is sent as it is.
Response = tuple[int, dict[str, str], Any]


class StubServer:
    """Answers `/v1/chat/completions` with what `respond` makes of the request's number and body."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.respond: Callable[[int, dict[str, Any]], Response] = lambda number, body: self.completion(
            '{"label": "safe"}'
        )
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805
                body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                with lock:
                    self.requests.append(body)
                    self.keys.append(handler.headers.get("Authorization"))
                    number = len(self.requests)
                status, headers, content = self.respond(number, body)
                data = (content if isinstance(content, str) else json.dumps(content)).encode()
                handler.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    handler.send_header(name, value)
                handler.send_header("Content-Length", str(len(data)))
                handler.end_headers()
                handler.wfile.write(data)

            def log_message(handler, *args: object) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @staticmethod
    def completion(text: str | None, prompt_tokens: int = 10, reply_tokens: int = 4) -> Response:
        """Return the response that carries `text`."""
        total = prompt_tokens + reply_tokens
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": reply_tokens, "total_tokens": total}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        shell = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
        return 200, {}, {**shell, "choices": [choice], "usage": usage}

    @staticmethod
    def failure(status: int, message: str = "no", headers: dict[str, str] | None = None) -> Response:
        """Return an error response."""
        return status, headers or {}, {"error": {"message": message, "type": "x", "param": None, "code": None}}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubServer]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-key")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    server = StubServer()
    yield server
    server.close()


REFUSALS = Metric("refusal rate", "higher")

Values = Sequence[float | None] | Mapping[str, float | None]


def _result(
    values: Values,
    seed: int | None = 0,
    *,
    suite: str = "unsafe",
    name: str = "rules/refusal",
    metric: Metric = REFUSALS,
) -> SuiteResult:
    by_id = values if isinstance(values, Mapping) else {f"p{n}": value for n, value in enumerate(values)}
    records = [Record(sample, f"prompt {sample}", category="any", values={name: by_id[sample]}) for sample in by_id]
    role = "start" if seed is None else "model"
    return SuiteResult(suite, "safety", role, {"name": "x", "hash": "y"}, {name: metric}, records, seed=seed)


def _values(results: Mapping[str, Sequence[SuiteResult]]) -> pa.Table:
    return pa.concat_tables(
        [values_of([result], method, seed=result.seed) for method, found in results.items() for result in found]
    )


@pytest.fixture
def make_result() -> Callable[..., SuiteResult]:
    """Return a function `(values, seed=0, *, suite, name, metric) -> result`."""
    return _result


@pytest.fixture
def as_values() -> Callable[..., pa.Table]:
    """Return a function from results by method to their values; a result's seed is that of its rows."""
    return _values

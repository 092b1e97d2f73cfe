"""A tiny random Llama with adapters and a tokenizer, made on the spot, and a stub of an OpenAI-compatible server."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_WORDS = ["<pad>", "<end>", "<unk>", "user", "assistant", ":", "red", "blue", "green"]
_WORDS += ["one", "two", "three", "four", "five", "six"]
_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + ' <end> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(_WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")
    made.chat_template = _TEMPLATE
    return made


def _tiny_llama(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(_WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.5,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
    )
    return LlamaForCausalLM(config)


@pytest.fixture
def make_model() -> Callable[[int], LlamaForCausalLM]:
    """Return a function from a seed to a model; equal seeds give equal weights."""
    return _tiny_llama


@pytest.fixture
def model() -> LlamaForCausalLM:
    return _tiny_llama(0)


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

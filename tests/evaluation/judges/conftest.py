"""A stub of an OpenAI-compatible server on loopback, and a folder with a tiny random reward model."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

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


@pytest.fixture
def make_classifier_dir(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> Callable[[int], Path]:
    """Return a function from a number of outputs to the folder of a random Llama classifier with its tokenizer."""

    def make(outputs: int) -> Path:
        config = LlamaConfig(
            vocab_size=len(tiny_tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.2,
            pad_token_id=tiny_tokenizer.pad_token_id,
            num_labels=outputs,
        )
        folder = tmp_path / "classifier"
        LlamaForSequenceClassification(config).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return make

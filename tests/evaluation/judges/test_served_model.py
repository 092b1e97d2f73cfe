"""The judge against a real server, `transformers serve`, with a tiny random model: its babble is no verdict."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from dualselect.evaluation.judges import ApiJudge
from dualselect.models.endpoint import Endpoint, EndpointSettings

_COMMAND = shutil.which("transformers", path=str(Path(sys.executable).parent))
_SERVING = _COMMAND and importlib.util.find_spec("fastapi") and importlib.util.find_spec("uvicorn")


@pytest.fixture
def served(tiny_model_dir, tmp_path):
    """Return the address of a server that answers with the tiny model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [_COMMAND, "serve", str(tiny_model_dir), "--device", "cpu", "--dtype", "float32"]
    with (tmp_path / "serve.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server, tmp_path / "serve.log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait_for(address, server, log):
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the server did not start:\n{log.read_text()}")


@pytest.mark.slow
@pytest.mark.skipif(not _SERVING, reason="needs transformers[serving]")
def test_a_run_against_a_real_server_completes_and_counts_tokens(served, tiny_model_dir, tmp_path) -> None:
    settings = EndpointSettings(max_tokens=6, concurrency=2, price_in=1.0, price_out=1.0)
    endpoint = Endpoint(str(tiny_model_dir), served, settings, cache_folder=tmp_path / "cache", show_progress=False)
    judge = ApiJudge(endpoint)
    verdicts = judge.judge_all(["how many", "why", "why"], ["all", "not", "not"])
    assert [verdict.label for verdict in verdicts] == [None] * 3
    assert all(verdict.evidence.startswith("unreadable") for verdict in verdicts)
    assert (judge.usage.requests, judge.usage.failed) == (2, 0)
    assert judge.usage.prompt_tokens > len(judge.rubric.text) / 4
    assert 0 < judge.usage.reply_tokens <= 12
    assert judge.usage.cost == pytest.approx((judge.usage.prompt_tokens + judge.usage.reply_tokens) / 1e6)

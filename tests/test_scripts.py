"""The scripts that `make venv` runs before anything is installed."""

import importlib.util
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def torch_index():
    spec = importlib.util.spec_from_file_location("torch_index", SCRIPTS / "torch_index.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_index_is_taken_only_if_it_answers(torch_index):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(handler):  # noqa: N805
            handler.send_response(200 if handler.path == "/torch/" else 404)
            handler.end_headers()

        def log_message(handler, *args):  # noqa: N805
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        assert torch_index.answers(f"{url}/torch/")
        assert not torch_index.answers(f"{url}/none/")
    finally:
        server.shutdown()
        server.server_close()
    assert not torch_index.answers(f"{url}/torch/")
    assert not torch_index.answers("no url")


def test_the_installer_names_an_interpreter_that_is_not_there(tmp_path):
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "install.sh").write_text((SCRIPTS / "install.sh").read_text())
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": "/nowhere/python"}
    done = subprocess.run(["sh", str(scripts / "install.sh")], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed, and '/nowhere/python' is not" in done.stderr
    assert not (tmp_path / ".venv").exists()

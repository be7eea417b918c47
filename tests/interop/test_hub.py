"""`import hf:...` against a local HTTP server in place of the hub: one download, and refusals."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from interop.random_models import CONFIGS, exported, random_network
from simplellm.app.cli import main
from simplellm.checkpoint.export.export import ExportJob
from simplellm.data.tokenizer import Tokenizer

ANSWERS = {
    "missing": (404, "RepoNotFound", "there is no model hf:a/missing"),
    "other@v9": (404, "RevisionNotFound", "there is no model hf:a/other@v9"),
    "gated": (403, "GatedRepo", "hf:a/gated asks for an account"),
    "private": (401, "", "hf:a/private asks for an account"),
    "busy": (503, "", "the hub answers 503"),
    "limited": (429, "", "the hub answers 429"),
}


class Hub(BaseHTTPRequestHandler):
    """Refuses each request by the name of its model."""

    def do_GET(self) -> None:
        name = next((name for name in ANSWERS if name.partition("@")[0] in self.path), "missing")
        status, code, _ = ANSWERS[name]
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """The log of requests is not needed."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    constants = pytest.importorskip("huggingface_hub.constants")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The error of an import that must write nothing."""
    assert main(["import", f"hf:a/{name}", "--checkpoints", str(tmp_path / "runs")]) == 1
    assert not (tmp_path / "runs").exists()
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 2
    return error


@pytest.mark.parametrize("name", ANSWERS)
def test_a_refusal_of_the_hub_is_one_error(
    name: str, server: ThreadingHTTPServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ANSWERS[name][2] in refused(name, tmp_path, capsys)


def test_a_refused_connection_is_one_error(
    server: ThreadingHTTPServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.shutdown()
    server.server_close()
    assert "the hub cannot be reached" in refused("model", tmp_path, capsys)


# ---------------------------------------------------------------- a download

COMMIT = "0123456789abcdef0123456789abcdef01234567"
UNWANTED = ("pytorch_model.bin", "modeling_llama.py", "onnx/model.onnx")


class ModelHub(BaseHTTPRequestHandler):
    """The requests of huggingface_hub for one model, `OWNER/NAME@v1.0`, from a folder."""

    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, seen: list[str], *arguments: Any) -> None:
        self.folder, self.seen = folder, seen
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.seen.append(path)
        if path == "/api/models/OWNER/NAME/revision/v1.0":
            names = [{"rfilename": name} for name in (*os.listdir(self.folder), *UNWANTED)]
            self.answer(json.dumps({"id": "OWNER/NAME", "sha": COMMIT, "siblings": names}).encode())
        elif path == f"/api/models/OWNER/NAME/tree/{COMMIT}":
            files = [self.entry(name) for name in (*os.listdir(self.folder), *UNWANTED)]
            self.answer(json.dumps(files).encode())
        elif path.startswith(f"/OWNER/NAME/resolve/{COMMIT}/"):
            content = (self.folder / path.rpartition("/")[2]).read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            self.answer(content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        else:
            self.answer(b"", status=404)

    do_HEAD = do_GET

    def entry(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        content = path.read_bytes() if path.is_file() else b"code"
        digest = hashlib.sha256(content).hexdigest()
        return {"type": "file", "path": name, "size": len(content), "oid": digest[:40]}

    def answer(
        self, content: bytes, headers: dict[str, str] | None = None, status: int = 200
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """The log of requests is not needed."""


def imported(name: str, port: int, tmp_path: Path) -> dict[str, Any]:
    """The result of an import by the program, with the hub at a local port."""
    command = ["import", "hf:OWNER/NAME@v1.0", "--name", name, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "simplellm", *command, "--checkpoints", str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env={
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "0",
            "no_proxy": "127.0.0.1",
        },
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_revision_is_downloaded_once_without_code_and_found_in_the_cache_without_a_hub(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    network = random_network(CONFIGS["llama"], tokenizer.vocab_size)
    ExportJob.of("hf", None, tmp_path / "model").write(exported("model", network, tokenizer))
    seen: list[str] = []
    handler = functools.partial(ModelHub, tmp_path / "model", seen)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        first = imported("first", server.server_port, tmp_path)
        downloaded = [path for path in seen if "/resolve/" in path]
        seen.clear()
        second = imported("second", server.server_port, tmp_path)
        server.shutdown()
    assert any(path.endswith("/model.safetensors") for path in downloaded)
    assert not any(path.endswith(UNWANTED) for path in downloaded)
    assert "/api/models/OWNER/NAME/revision/v1.0" in seen
    assert not [path for path in seen if "/resolve/" in path]
    third = imported("third", server.server_port, tmp_path)  # nothing listens there any more
    for result in (first, second, third):
        assert result["parameters"] == network.n_parameters
        info = json.loads((Path(result["path"]).parent / "run.json").read_text())
        assert info["imported"]["source"] == f"hf:OWNER/NAME@{COMMIT}"

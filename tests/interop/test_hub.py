"""`import hf:...` against a local HTTP server in place of the hub: each refusal is one error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from simplellm.app.cli import main

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

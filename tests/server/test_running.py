"""Addresses to listen on, and the command `serve`: mistakes, signals and exit codes."""

from __future__ import annotations

import http.client
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import posix_only

from server import needed as needed
from simplellm.app.cli import main
from simplellm.app.parser import parse
from simplellm.errors import SettingError, SimpleLLMError

LOOPBACK = "127.0.0.1"


def test_a_port_in_use_and_a_foreign_address_are_told_apart() -> None:
    from simplellm.server.running import bound_sockets

    (first,) = bound_sockets(LOOPBACK, 0)
    first.listen()
    try:
        with pytest.raises(SimpleLLMError, match="in use") as used:
            bound_sockets(LOOPBACK, first.getsockname()[1])
        assert used.value.exit_code == 1
    finally:
        first.close()
    for host in ("192.0.2.1", "no.such.host.invalid", "a b", "\u00e9" * 80, ""):
        with pytest.raises(SettingError, match="--host"):
            bound_sockets(host, 0)


def test_a_name_with_several_addresses_listens_on_one_port() -> None:
    from simplellm.server.running import addresses, bound_sockets

    listeners = bound_sockets("localhost", 0)
    try:
        assert set(addresses(listeners)) <= {LOOPBACK, "::1"}
        assert len({listener.getsockname()[1] for listener in listeners}) == 1
    finally:
        for listener in listeners:
            listener.close()


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--host", "0.0.0.0"], 2, "--api-key"),
        (["--host", "::"], 2, "--api-key"),
        (["--host", "192.0.2.1"], 2, "--host"),
        (["--port", "65536"], 2, "port"),
        (["--api-key", "a b"], 2, "API key"),
        (["--cors-origin", "*"], 2, "--cors-origin"),
        (["--allow-host", "http://a"], 2, "--allow-host"),
        (["--num-beams", "2"], 2, "--num-beams"),
        (["--port", "0", "--run", "none"], 1, "none"),
    ],
)
def test_a_mistake_is_reported_in_two_lines_before_a_model_is_loaded(
    flags: list[str], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--checkpoints", str(tmp_path), *flags]) == code
    out, err = capsys.readouterr()
    assert out == "" and words in err and len(err.splitlines()) <= 2


def test_a_missing_package_names_the_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "simplellm.server.running", None)
    assert main(["serve", "--checkpoints", str(tmp_path)]) == 1
    assert 'pip install "simplellm[serve]"' in capsys.readouterr().err


def test_a_key_of_the_environment_counts_and_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMPLELLM_API_KEY", "sk-of-the-environment")
    flags = ["serve", "--checkpoints", str(tmp_path), "--host", "0.0.0.0", "--port", "0"]
    assert main(flags) == 1  # no run: the host is accepted
    assert "sk-of" not in capsys.readouterr().err
    monkeypatch.setenv("SIMPLELLM_API_KEY", "")
    assert main(flags) == 2
    assert "sk-a" not in repr(parse(["serve", "--api-key", "sk-a"])).partition("arguments")[0]


class Caller(threading.Thread):
    """Calls the server as soon as it has started, then sends a signal to this process."""

    def __init__(self, number: int, parameters: dict[str, Any]) -> None:
        super().__init__()
        self.url: queue.Queue[str] = queue.Queue()
        self.rest = b""
        self.seconds = 0.0  # from the signal to the end of the reply
        self._number = number
        self._parameters = parameters

    def run(self) -> None:
        reply = post(self.url.get(timeout=60), {**self._parameters, "stream": True})
        assert reply.readline().startswith(b"data: ")
        started_at = time.monotonic()
        os.kill(os.getpid(), self._number)
        self.rest = reply.read()
        self.seconds = time.monotonic() - started_at


def post(url: str, body: object) -> http.client.HTTPResponse:
    host = url.removeprefix("http://").strip("/")
    connection = http.client.HTTPConnection(host, timeout=60)
    headers = {"content-type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body).encode(), headers)
    return connection.getresponse()


def serve_and_signal(
    trained: Path, monkeypatch: pytest.MonkeyPatch, number: int, **parameters: Any
) -> tuple[int, Caller]:
    """The exit code of `serve`, and who called it."""
    caller = Caller(number, {"prompt": "The", **parameters})

    def announced(document: dict[str, str]) -> None:
        assert set(document) == {"url", "model"} and document["model"] == "tiny"
        caller.url.put(document["url"])

    monkeypatch.setattr("simplellm.app.subcommands.serve.write_json", announced)
    caller.start()
    code = main(["serve", "--run", "tiny", "--checkpoints", str(trained), "--port", "0", "--json"])
    caller.join(60)
    return code, caller


@posix_only
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 0), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_cancels_long_replies_and_gives_the_exit_code(
    trained: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    monkeypatch.setattr("simplellm.server.running.FINISH_SECONDS", 0.05)
    number = getattr(signal, name)
    before = signal.getsignal(number)
    found, caller = serve_and_signal(trained, monkeypatch, number, max_tokens=100_000)
    assert found == code
    assert b'"the server is stopping"' in caller.rest and caller.seconds < 5
    if name == "SIGINT":  # the others are handlers of the command line, which stay
        assert signal.getsignal(number) == before


@posix_only
def test_short_replies_are_finished_after_a_signal(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, caller = serve_and_signal(trained, monkeypatch, signal.SIGTERM, max_tokens=20)
    assert code == 143 and caller.rest.endswith(b"data: [DONE]\n\n")


@posix_only
@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_process_ends_within_five_seconds_of_a_signal(
    trained: Path, number: int, code: int
) -> None:
    from program import SIMPLELLM, environment

    serve = ["serve", "--run", "tiny", "--checkpoints", str(trained), "--port", "0"]
    process = subprocess.Popen(
        [*SIMPLELLM, *serve], stderr=subprocess.PIPE, env=environment(), text=True
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = re.findall(r"http://[^ ]+", line)[0]
        assert line.startswith("tiny: ") and "Ctrl-C stops" in line
        reply = post(url, {"prompt": "The", "max_tokens": 100_000, "stream": True})
        assert reply.readline().startswith(b"data: ")
        started_at = time.monotonic()
        process.send_signal(number)
        assert b'"the server is stopping"' in reply.read()
        assert process.wait(60) == code and process.stderr.read() == ""
        assert time.monotonic() - started_at < 5
    finally:
        process.kill()
        process.communicate()

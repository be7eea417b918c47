"""Connections: raw bytes, slow and idle clients, many of them, and clients that disconnect."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from server.live_server import Live
    from simplellm.inference.sampler import Sampler

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CLOSE = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
LONG: dict[str, Any] = {"prompt": "a", "max_tokens": 5000, "temperature": 0}  # does not end itself


def request_bytes(**parameters: Any) -> bytes:
    body = json.dumps(parameters).encode()
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def status_of(answer: bytes) -> int:
    """The status of a response whose body is an error in OpenAI's shape."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    return int(head.split()[1])


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\nConnection: close\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",  # no Host
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nX: " + b"a" * 40_000,
        CLOSE + b"X: " + b"a" * 17_000 + b"\r\n\r\n",
        CLOSE.replace(b"/health", b"/" + b"a" * 17_000) + b"\r\n",
        HEAD + b"Content-Length: x\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    ],
)
def test_bytes_that_are_no_http_request_are_answered(live: Live, data: bytes) -> None:
    assert status_of(live.raw(data)) in (400, 403, 431)


def test_a_garbled_request_after_a_good_one_closes_the_connection(live: Live) -> None:
    with live.connect() as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nnonsense\r\n\r\n")
        data = b"".join(iter(lambda: sock.recv(65536), b""))
    assert data.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 400" in data


def test_several_requests_share_a_connection(live: Live) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert live.raw(request * 3 + last).count(b'{"status":"ok"}') == 4


def test_an_idle_connection_and_a_slow_request_are_closed(
    byte_sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server.live_server import live_server, received

    monkeypatch.setattr("simplellm.server.connections.IDLE_SECONDS", 0.3)
    monkeypatch.setattr("simplellm.server.request_body.BODY_SECONDS", 0.3)
    with live_server(byte_sampler) as server:
        with server.connect() as silent, server.connect() as slow_head:
            slow_head.sendall(b"GET /health HTTP/1.1\r\nHost: ")
            assert received(silent) == received(slow_head) == b""
        with server.connect() as kept:
            kept.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert received(kept).startswith(b"HTTP/1.1 200")
        with server.connect() as slow_body:
            slow_body.sendall(HEAD + b'Content-Length: 50\r\n\r\n{"prompt"')
            assert status_of(received(slow_body)) == 408


def test_a_reader_that_stalls_is_dropped_and_stops_no_other(
    byte_sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server.live_server import live_server, wait_until

    monkeypatch.setattr("simplellm.server.connections.STALLED_SECONDS", 0.3)
    monkeypatch.setattr("simplellm.server.replies.MAX_UNREAD", 100)
    with live_server(byte_sampler, send_buffer=4096) as server, server.connect() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.sendall(request_bytes(**{**LONG, "max_tokens": 100_000}, stream=True, logprobs=20))
        wait_until(lambda: server.n_running == 1)
        assert server.complete("a", max_tokens=5).status == 200
        wait_until(lambda: server.n_running == 0)


def test_a_client_that_disconnects_cancels_its_request(live: Live) -> None:
    for stream in (True, False):
        before = live.service.model.engine.statistics.generated_tokens
        with live.held_engine(), live.connect() as sock:
            sock.sendall(request_bytes(**LONG, stream=stream))
            wait_until_running(live, 1)
        wait_until_running(live, 0)
        generated = live.service.model.engine.statistics.generated_tokens - before
        assert generated < LONG["max_tokens"] / 2
    assert live.notices == []


@pytest.mark.parametrize("n", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_clients_killed_in_a_stream_leak_nothing(live: Live, n: int) -> None:
    before = live.service.model.engine.statistics.generated_tokens
    for number in range(n):
        with live.connect() as sock:
            sock.sendall(request_bytes(**LONG, stream=True, seed=number))
            assert sock.recv(1)
            if number % 2:  # reset instead of an orderly end
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until_running(live, 0)
    statistics = live.service.model.engine.statistics
    assert (statistics.kv_bytes, statistics.waiting) == (0, 0)
    assert statistics.generated_tokens - before < n * LONG["max_tokens"] / 2
    assert live.complete("a", max_tokens=5).status == 200
    assert live.notices == []


@pytest.mark.slow
def test_killed_clients_leak_no_memory(live: Live, report_count: Any) -> None:
    test_clients_killed_in_a_stream_leak_nothing(live, 100)
    before = resident_bytes()
    test_clients_killed_in_a_stream_leak_nothing(live, 500)
    grown = resident_bytes() - before
    report_count(f"500 clients killed in a stream: {grown / 1e6:.1f} MB more memory")
    assert grown < 20e6


def resident_bytes() -> int:
    with contextlib.suppress(OSError), open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096
    pytest.skip("needs /proc/self/statm")


@pytest.mark.parametrize("n", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_idle_connections_do_not_keep_a_new_client_out(
    byte_sampler: Sampler, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    from server.live_server import live_server

    if n < 1000:
        monkeypatch.setattr("simplellm.server.connections.MAX_CONNECTIONS", 20)
    with live_server(byte_sampler) as server, contextlib.ExitStack() as idle:
        idle.enter_context(allowed_files(2 * n + 200))
        for _ in range(n):
            idle.enter_context(server.connect())
        started_at = time.monotonic()
        assert server.complete("a", max_tokens=5).status == 200
        assert time.monotonic() - started_at < 30


@contextlib.contextmanager
def allowed_files(n: int) -> Any:
    """This process may open `n` files: here it is the clients as well."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < n:
        pytest.skip(f"this process may open {hard} files only, and needs {n}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, n), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_oldest_idle_connection_is_closed_for_a_new_one(
    byte_sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server.live_server import live_server, received

    monkeypatch.setattr("simplellm.server.connections.MAX_CONNECTIONS", 2)
    with live_server(byte_sampler) as server, contextlib.ExitStack() as idle:
        first = idle.enter_context(server.connect())
        second = idle.enter_context(server.connect())
        assert server.get("/health").status == 200
        first.settimeout(10)
        assert received(first) == b""
        second.sendall(CLOSE + b"\r\n")
        assert received(second).startswith(b"HTTP/1.1 200")


def test_a_connection_over_the_limit_is_refused_while_all_others_are_busy(
    byte_sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server.live_server import live_server, received

    monkeypatch.setattr("simplellm.server.connections.MAX_CONNECTIONS", 2)
    with live_server(byte_sampler) as server, contextlib.ExitStack() as busy:
        busy.enter_context(server.held_engine())
        for _ in range(2):
            sock = busy.enter_context(server.connect())
            sock.sendall(request_bytes(**LONG, stream=True))
            assert sock.recv(1)
        with server.connect() as third:
            assert status_of(received(third)) == 503


def wait_until_running(live: Live, n: int) -> None:
    from server.live_server import wait_until

    wait_until(lambda: live.n_running == n)

"""Malformed requests: every one is answered with an error in OpenAI's shape, and none hangs."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from server.live_server import Live

NAMES = (
    "prompt", "messages", "model", "max_tokens", "max_completion_tokens", "temperature", "top_p",
    "top_k", "min_p", "repetition_penalty", "n", "stop", "seed", "stream", "stream_options", "echo",
    "logprobs", "top_logprobs", "user", "tools", "response_format", "logit_bias", "best_of",
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([2**63, -1, 0, 1e400, "user", "system", "\ud800", [[0]], [0, 1]]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "include_usage", ""]),
                      inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
BODIES = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=6), VALUES, max_size=6) | VALUES
PATHS = st.sampled_from(["/v1/completions", "/v1/chat/completions"])
# A good request, so that mistakes later in it are reached.
GOOD = st.sampled_from([
    {}, {"prompt": "a", "max_tokens": 1},
    {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1},
])  # fmt: skip
LINES = (
    b"GET ", b"POST ", b"/health", b"/v1/completions", b" HTTP/1.1\r\n", b"Host: localhost\r\n",
    b"Content-Length: 10\r\n", b"Content-Length: 99999999999999999999\r\n", b"\r\n", b"\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Content-Type: application/json\r\n", b"5\r\nabcde\r\n",
    b"0\r\n\r\n", b"Expect: 100-continue\r\n", b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"\x00", b"\xff\xfe", b"%", b"{}",
)  # fmt: skip
BYTES = st.lists(st.sampled_from(LINES) | st.binary(max_size=12), max_size=12).map(b"".join)
GREETINGS = (b"HTTP/1.1 100 \r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n")
N_EXAMPLES = 300  # a third in the default tests; the slow ones also try MANY
MANY = 10_000
SECONDS = 60.0  # after which a test fails instead of waiting on
ANSWER_SECONDS = 0.02


def check_json(chat: Live, path: str, good: Any, body: Any) -> int:
    """Send a body; returns the status of the answer, which is in the shape of the API."""
    merged = {**good, **body} if isinstance(body, dict) else body
    data = json.dumps(merged).encode()
    answer = chat.request("POST", path, data)
    if answer.status != 200:
        assert 400 <= answer.status < 500 and answer.error, merged
    return answer.status


def check_bytes(chat: Live, data: bytes) -> int:
    """Send bytes, and end the connection where no answer comes at once.

    Returns the status of the last answer, or 0 if there is none.
    """
    answer = b""
    with chat.connect() as sock:
        sock.sendall(data)
        sock.settimeout(ANSWER_SECONDS)
        with contextlib.suppress(OSError):  # no answer yet: perhaps more bytes are missing
            answer = sock.recv(1)
        sock.settimeout(SECONDS)
        with contextlib.suppress(OSError):  # the server has closed the connection
            sock.shutdown(socket.SHUT_WR)
        answer += received_bytes(sock)
    for greeting in GREETINGS:
        answer = answer.replace(greeting, b"")
    statuses = []
    assert not answer or answer.startswith(b"HTTP/1.1 "), answer
    for part in answer.split(b"HTTP/1.1 ")[1:]:
        status = int(part[:3])
        statuses.append(status)
        assert status == 200 or 400 <= status < 500, data
        if status != 200:
            body = part.partition(b"\r\n\r\n")[2]
            assert not body or set(json.loads(body)) == {"error"}, data
    return statuses[-1] if statuses else 0


def received_bytes(sock: socket.socket) -> bytes:
    from server.live_server import received

    return received(sock)


@settings(max_examples=examples(N_EXAMPLES))
@given(path=PATHS, good=GOOD, body=BODIES)
def test_any_json_is_answered(chat: Live, path: str, good: Any, body: Any) -> None:
    assert check_json(chat, path, good, body) in range(200, 500)
    assert chat.notices == []


@settings(max_examples=examples(N_EXAMPLES))
@given(data=BYTES)
def test_any_bytes_are_answered_or_the_connection_ends(chat: Live, data: bytes) -> None:
    assert check_bytes(chat, data) < 500
    assert chat.notices == []


@pytest.mark.slow
def test_ten_thousand_malformed_requests(chat: Live, report_count: Any) -> None:
    statuses: dict[int, int] = {}

    @settings(max_examples=MANY // 2, database=None)
    @given(path=PATHS, good=GOOD, body=BODIES)
    def try_json(path: str, good: Any, body: Any) -> None:
        status = check_json(chat, path, good, body)
        statuses[status] = statuses.get(status, 0) + 1

    @settings(max_examples=MANY // 2, database=None)
    @given(data=BYTES)
    def try_bytes(data: bytes) -> None:
        status = check_bytes(chat, data)
        statuses[status] = statuses.get(status, 0) + 1

    try_json()
    try_bytes()
    assert chat.notices == [] and chat.complete("a", max_tokens=2).status == 200
    counts = ", ".join(f"{n} x {status or 'closed'}" for status, n in sorted(statuses.items()))
    report_count(f"{sum(statuses.values())} malformed requests: {counts}")

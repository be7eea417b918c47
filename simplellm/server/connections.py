"""Connections: limits of their number, of idle ones, and of clients that send or read slowly.

An idle connection costs little, but a process has few file descriptors. Where they run short, the
connection that has been idle for longest is closed, so that a new client is always answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from simplellm.server.api_error import ApiError
from simplellm.server.json_text import json_line
from simplellm.server.request_body import MAX_HEAD_BYTES

MAX_CONNECTIONS = 512
IDLE_SECONDS = 20.0  # without a whole request head, from the start or from the last answer
STALLED_SECONDS = 30.0  # in which a client reads nothing of an answer that waits for it
BAD_HEAD = f"the request is not valid HTTP, or its head has over {MAX_HEAD_BYTES >> 10} KiB"


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with these limits, and errors in OpenAI's shape."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.idle_since: float | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------ idle connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_idle()
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._end_idle()

    def on_response_complete(self) -> None:
        before = self.cycle
        self._begin_idle()
        super().on_response_complete()
        if self.cycle is not before:  # the next request had arrived already
            self._end_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_idle()
        self._end_stall()
        super().connection_lost(exc)

    def _begin_idle(self) -> None:
        self._end_idle()
        self.idle_since = time.monotonic()
        self._idle_timer = self.loop.call_later(IDLE_SECONDS, self.transport.abort)

    def _end_idle(self) -> None:
        self.idle_since = None
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _make_room(self) -> None:
        """Close the connection that has been idle for longest, or this one if all are busy."""
        idle = [
            (other.idle_since, other)
            for other in self.connections
            if isinstance(other, Connection) and other is not self and other.idle_since is not None
        ]
        if idle:
            oldest = min(idle, key=lambda pair: pair[0])[1]
            self.connections.discard(oldest)
            oldest.transport.abort()
        else:
            busy = ApiError(503, "too many connections; try again in a second", code="overloaded")
            self._answer_and_close(busy)

    # ------------------------------------------------------------ slow readers

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALLED_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._end_stall()
        super().resume_writing()

    def _end_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    # ------------------------------------------------------------ errors

    def send_400_response(self, msg: str) -> None:
        self._answer_and_close(ApiError(400, BAD_HEAD, code="invalid_http"))

    def _answer_and_close(self, error: ApiError) -> None:
        """Answer before any request was read; just close where an answer has begun."""
        body = json_line(error.to_mapping())
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        reason = b"Bad Request" if error.status == 400 else b"Service Unavailable"
        with contextlib.suppress(h11.LocalProtocolError):
            head = h11.Response(status_code=error.status, headers=headers, reason=reason)
            for part in head, h11.Data(data=body), h11.EndOfMessage():
                self.transport.write(self.conn.send(part) or b"")
        self.transport.close()

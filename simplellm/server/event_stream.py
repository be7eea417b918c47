"""Server-sent events: JSON documents that are sent as they are made."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from simplellm.server.api_error import api_error
from simplellm.server.disconnect import until_gone
from simplellm.server.json_text import json_line

DONE = b"data: [DONE]\n\n"
HEADERS = {
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",  # nginx passes each event on at once
}
Report = Callable[[Exception], None]  # an unexpected error, for the log of the server


def event(value: Any) -> bytes:
    return b"data: " + json_line(value) + b"\n\n"


class EventStream(Response):
    """Sends the values of an asynchronous iterator as events, and `[DONE]` after the last one.

    An error becomes an event in OpenAI's shape. `close` is called at the end, also where the client
    disconnects before.
    """

    media_type = "text/event-stream"

    def __init__(
        self, values: AsyncIterator[Any], close: Callable[[], None], report: Report
    ) -> None:
        self.status_code = 200
        self.background: BackgroundTask | None = None
        self.init_headers(HEADERS)
        self._values = values
        self._close = close
        self._report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await until_gone(receive, self._send(send))
        finally:
            self._close()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        last = DONE
        try:
            async for value in self._values:
                await send(_part(event(value)))
        except Exception as error:
            known = api_error(error)
            if known.status == 500:
                self._report(error)
            last = event(known.to_mapping())
        await send(_part(last, more=False))


def _part(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}

"""The answer to a request for replies, as one JSON document or as a stream of events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from starlette.responses import Response

from simplellm.server.event_stream import EventStream, Report
from simplellm.server.json_text import JsonResponse
from simplellm.storage.json_files import JsonObject


class RunningReplies(Protocol):
    """Replies that were submitted; they are cancelled when they are not needed any more."""

    def chunks(self) -> AsyncIterator[JsonObject]: ...

    async def whole(self) -> JsonObject: ...

    def cancel(self) -> None: ...


async def answer(replies: RunningReplies, is_stream: bool, report: Report) -> Response:
    """`report` receives unexpected errors of a stream, which began with status 200."""
    if is_stream:
        return EventStream(replies.chunks(), replies.cancel, report)
    try:
        return JsonResponse(await replies.whole())
    finally:
        replies.cancel()

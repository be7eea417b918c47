"""Replies of the engine in an event loop: its thread puts tokens in, a coroutine takes them out."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from simplellm.config.sampling import SamplingParams
from simplellm.inference.engine.engine import Engine
from simplellm.inference.engine.request import CANCELLED, ERROR, End, NewToken, Ticket
from simplellm.server.api_error import ApiError, bad_request, stopping

MAX_UNREAD = 20_000  # tokens that wait for a client that reads too slowly


@dataclass(frozen=True)
class Job:
    """A reply to compute. top: number of most likely tokens to report at each place."""

    ids: Sequence[int]
    params: SamplingParams
    top: int = 0


class Replies:
    """The replies to some jobs. Made in an event loop, which also iterates over them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[tuple[int, NewToken | End]] = deque()
        self._is_signalled = False
        self._signal = asyncio.Event()
        self._tickets: list[Ticket] = []
        self._is_too_slow = False

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue the jobs; if one of them is refused, none is computed.

        ApiError for more of them than the queue can ever hold, QueueFull.
        """
        limits = self._engine.limits
        most = limits.max_running + limits.max_waiting
        if len(jobs) > most:
            raise bad_request(f"a request has at most {most} replies, got {len(jobs)}", "n")
        try:
            for number, job in enumerate(jobs):
                self._tickets.append(self._submit(number, job))
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """End the replies that are not complete; no effect on the others."""
        for ticket in self._tickets:
            ticket.cancel()

    async def __aiter__(self) -> AsyncIterator[tuple[int, NewToken | End]]:
        """The tokens as they come, each with the number of its job; an `End` for each job.

        ApiError or the error of the engine for a reply that failed or was cancelled.
        """
        n_running = len(self._tickets)
        while n_running:
            await self._signal.wait()
            self._signal.clear()
            self._is_signalled = False
            while self._arrived:
                number, item = self._arrived.popleft()
                if isinstance(item, End):
                    self._check(item)
                    n_running -= 1
                yield number, item

    def _submit(self, number: int, job: Job) -> Ticket:
        def put(item: NewToken | End) -> None:
            self._put(number, item)

        return self._engine.submit(job.ids, job.params, on_token=put, on_end=put, top=job.top)

    def _put(self, number: int, item: NewToken | End) -> None:
        """Called on the thread of the engine. A signal that is under way is not repeated."""
        self._arrived.append((number, item))
        if len(self._arrived) > MAX_UNREAD and not self._is_too_slow:
            self._is_too_slow = True
            self.cancel()
        if not self._is_signalled:
            self._is_signalled = True
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._signal.set)

    def _check(self, end: End) -> None:
        if end.reason == ERROR and end.error is not None:
            raise end.error
        if end.reason == CANCELLED and self._is_too_slow:
            raise ApiError(408, "the reply was not read fast enough", code="slow_client")
        if end.reason == CANCELLED:
            raise stopping()

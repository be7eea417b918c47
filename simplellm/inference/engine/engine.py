"""The engine: one thread that computes the replies of many clients together.

A request joins the running replies between two tokens and leaves them after its last one. The reply
of a request with a seed does not depend on what else runs: see rows.py. The text of each reply is
made by `Reply`, as everywhere else.

    with Engine(sampler) as engine:
        ticket = engine.submit(ids, params, on_token=show, on_end=finish)

All methods of `Engine` may be called from any thread. Callbacks are called on the thread of the
engine and have to return quickly; an exception in one ends its request only.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from simplellm.config.sampling import SamplingParams
from simplellm.errors import SettingError
from simplellm.inference.engine.limits import EngineLimits, Statistics
from simplellm.inference.engine.request import (
    CANCELLED,
    ERROR,
    EndCallback,
    EngineClosed,
    QueueFull,
    Request,
    Ticket,
    TokenCallback,
)
from simplellm.inference.engine.running import Running
from simplellm.inference.sampler import Sampler

T = TypeVar("T")
CLOSE_SECONDS = 5.0
MAX_RETRY_SECONDS = 60


class Engine:
    """Replies of one model to many requests at once; `start` it, or use it in a with statement."""

    def __init__(self, sampler: Sampler, limits: EngineLimits | None = None) -> None:
        """`sampler` must not be used elsewhere while the engine runs: see `call`."""
        self.sampler = sampler
        self.limits = limits or EngineLimits()
        self._running = Running(sampler, self.limits)
        self._waiting: deque[Request] = deque()
        self._calls: deque[tuple[Future[object], Callable[[Sampler], object]]] = deque()
        self._changed = threading.Condition()  # guards the two queues and the state
        self._is_open = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> Engine:
        self._is_open = True
        self._thread.start()
        return self

    def close(self, timeout: float = CLOSE_SECONDS) -> bool:
        """Cancel all requests and stop; whether the thread has ended within `timeout` seconds."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.close()

    # ------------------------------------------------------------ for clients

    def submit(
        self,
        ids: Sequence[int],
        params: SamplingParams,
        *,
        on_token: TokenCallback,
        on_end: EndCallback,
        top: int = 0,
    ) -> Ticket:
        """Queue a reply to the prompt `ids`; `on_end` is called exactly once, with its `End`.

        top: number of most likely tokens that each `NewToken` names. QueueFull if too many requests
        wait, SettingError for a prompt or settings that the engine cannot serve, EngineClosed.
        """
        request = Request(tuple(ids), params, on_token, on_end, top)
        _check(request, self.sampler.model.config.vocab_size)
        with self._changed:
            self._require_open()
            n_requests = len(self._waiting) + len(self._running)
            if n_requests >= self.limits.max_waiting + self.limits.max_running:
                raise QueueFull(len(self._waiting), self._retry_after())
            self._waiting.append(request)
            self._changed.notify_all()
        return Ticket(request, self._wake)

    def call(self, function: Callable[[Sampler], T]) -> Future[T]:
        """Run `function` with the sampler on the thread of the engine, between two tokens.

        The future has its result or its exception; it is cancelled if the engine is closed.
        """
        future: Future[T] = Future()
        with self._changed:
            self._require_open()
            self._calls.append((future, function))  # type: ignore[arg-type]
            self._changed.notify_all()
        return future

    @property
    def statistics(self) -> Statistics:
        with self._changed:
            n_waiting = len(self._waiting)
        return self._running.statistics(n_waiting)

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._run_calls()
                self._admit()
                self._running.step()
        except Exception as error:  # a bug of the engine: no client waits for ever
            self._end_all(ERROR, error)
            raise
        self._end_all(CANCELLED)

    def _wait_for_work(self) -> bool:
        """Sleep while there is nothing to do; False once the engine is closed."""
        with self._changed:
            while self._is_open and not (self._waiting or self._calls or len(self._running)):
                self._changed.wait()
            return self._is_open

    def _run_calls(self) -> None:
        """One at a time between two tokens, so that replies go on."""
        with self._changed:
            if not self._calls:
                return
            future, function = self._calls.popleft()
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function(self.sampler))
            except Exception as error:
                future.set_exception(error)

    def _admit(self) -> None:
        """Start the requests that fit, in the order in which they came."""
        with self._changed:
            cancelled = [request for request in self._waiting if request.is_cancelled.is_set()]
            for request in cancelled:
                self._waiting.remove(request)
        for request in cancelled:
            self._running.reject(request, CANCELLED)
        while True:
            with self._changed:
                if not self._waiting or not self._running.has_room(self._waiting[0]):
                    return
                request = self._waiting.popleft()
            self._running.start(request)

    def _end_all(self, reason: str, error: Exception | None = None) -> None:
        with self._changed:
            self._is_open = False
            waiting, calls = list(self._waiting), list(self._calls)
            self._waiting.clear()
            self._calls.clear()
        for request in waiting:
            self._running.reject(request, reason, error)
        self._running.end_all(reason, error)
        for future, _ in calls:
            future.cancel()

    def _require_open(self) -> None:
        if not self._is_open:
            raise EngineClosed("the engine is not running", fix="start it before the first request")

    def _retry_after(self) -> int:
        """Seconds until one of the running replies is likely to end."""
        seconds = self._running.mean_seconds / max(len(self._running), 1)
        return min(max(math.ceil(seconds), 1), MAX_RETRY_SECONDS)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _check(request: Request, vocab_size: int) -> None:
    if not request.ids:
        raise SettingError("a prompt has at least one token, got none", fix="pass a prompt")
    wrong = next((token for token in request.ids if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise SettingError(
            f"tokens of this model are 0 to {vocab_size - 1}, got {wrong}",
            fix="use the tokenizer of the model",
        )
    if request.params.num_beams > 1:
        raise SettingError(
            f"the engine samples replies, got num_beams {request.params.num_beams}",
            fix="use num_beams 1",
        )

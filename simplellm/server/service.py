"""The state of a running server that its endpoints share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from simplellm.errors import Notice
from simplellm.inference.sampler import Sampler
from simplellm.server.access import Access
from simplellm.server.api_error import ApiError, stopping
from simplellm.server.metrics import Metrics
from simplellm.server.served_model import ServedModel

MAX_COMPUTATIONS = 32  # that wait for the engine between two tokens, such as scores of prompts
T = TypeVar("T")


@dataclass
class Service:
    """The served model, who may use it, counts, and whether requests are accepted.

    notice: shows one line in the log of the server.
    """

    model: ServedModel
    access: Access
    notice: Notice
    metrics: Metrics = field(default_factory=Metrics)
    started_at: float = field(default_factory=time.monotonic)
    is_stopping: bool = False
    n_computations: int = 0

    @property
    def uptime_seconds(self) -> float:
        return time.monotonic() - self.started_at

    def require_running(self) -> None:
        """ApiError while the server stops."""
        if self.is_stopping:
            raise stopping()

    async def computed(self, function: Callable[[Sampler], T]) -> T:
        """The result of `function`, which runs between two tokens of the running replies.

        ApiError where too many wait already.
        """
        if self.n_computations >= MAX_COMPUTATIONS:
            raise ApiError(
                429,
                f"{self.n_computations} requests wait already; try again in a second",
                code="rate_limit_exceeded",
                retry_after=1,
            )
        self.n_computations += 1
        future = self.model.engine.call(function)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if self.is_stopping:  # the engine cancels what it does not compute
                raise stopping() from None
            raise
        finally:
            self.n_computations -= 1

    def report(self, error: BaseException) -> None:
        """Log an unexpected error: its type, its message, and where it was raised."""
        trace = error.__traceback__
        place = ""
        while trace is not None:
            place = f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"
            trace = trace.tb_next
        with contextlib.suppress(OSError):  # a log that cannot be written: the answer is sent
            self.notice(f"a request failed: {type(error).__name__}: {error}{place}")

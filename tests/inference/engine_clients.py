"""A client of the engine that collects what it gets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from simplellm.config.sampling import SamplingParams
from simplellm.inference.engine.engine import Engine
from simplellm.inference.engine.request import End, NewToken, Ticket

SECONDS = 60.0  # after which a test fails instead of waiting on


class Client:
    """Submits one request. `end` waits for its end."""

    def __init__(
        self,
        engine: Engine,
        ids: Sequence[int],
        params: SamplingParams,
        top: int = 0,
        on_token: Callable[[NewToken], None] = lambda token: None,
    ) -> None:
        self.tokens: list[NewToken] = []
        self.ends: list[End] = []
        self._on_token = on_token
        self._has_ended = threading.Event()
        self.ticket: Ticket = engine.submit(
            ids, params, on_token=self._take, on_end=self._finish, top=top
        )

    def _take(self, token: NewToken) -> None:
        self.tokens.append(token)
        self._on_token(token)

    def _finish(self, end: End) -> None:
        self.ends.append(end)
        self._has_ended.set()

    @property
    def end(self) -> End:
        assert self._has_ended.wait(SECONDS), "the request does not end"
        (end,) = self.ends
        return end

    @property
    def text(self) -> str:
        """The whole text, which is that of the pieces."""
        text = self.end.text
        assert text == "".join(token.text for token in self.tokens)
        return text


def seeded(params: SamplingParams, seed: int) -> SamplingParams:
    return replace(params, seed=seed)

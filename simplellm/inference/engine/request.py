"""What a client asks of the engine and what it gets: requests, tickets, tokens and ends."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from simplellm.config.sampling import SamplingParams
from simplellm.errors import SimpleLLMError
from simplellm.inference.filters import Array
from simplellm.inference.reply import StreamedToken

CANCELLED = "cancelled"
ERROR = "error"


class QueueFull(SimpleLLMError):
    """The engine has as many waiting requests as it accepts.

    retry_after: seconds after which a place is likely to be free; a whole number, at least 1.
    """

    def __init__(self, n_waiting: int, retry_after: int) -> None:
        super().__init__(
            f"{n_waiting} requests wait already", fix=f"try again in {retry_after} seconds"
        )
        self.retry_after = retry_after


class EngineClosed(SimpleLLMError):
    """The engine was not started, or it was closed."""


@dataclass(frozen=True)
class NewToken:
    """One token of a reply.

    token: its id; None for text that was held back until the end of the reply. text: whole
    characters only; empty while a character or a stop sequence is incomplete. log_probability: by
    softmax at temperature 1, without filters. rank, entropy: as in `StreamedToken`. top: the most
    likely tokens and their log-probabilities, most likely first.
    """

    token: int | None
    text: str
    log_probability: float
    rank: int
    entropy: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class End:
    """The end of a reply.

    reason: "length", "stop", "end_of_text", "cancelled" or "error". error: of a request that
    failed. prompt_tokens: of the whole prompt. cached_tokens: those of them that were taken from
    the prefix cache. new_tokens: with the one that ended the reply. seed: None if it is random and
    the reply was not started. text: of the whole reply. ending: the token of an "end_of_text".
    """

    reason: str
    error: Exception | None
    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    seed: int | None
    text: str
    ending: NewToken | None = None

    @classmethod
    def of_request(cls, request: Request, reason: str, error: Exception | None = None) -> End:
        """The end of a request that was not started."""
        return cls(reason, error, len(request.ids), 0, 0, request.params.seed, "")


TokenCallback = Callable[[NewToken], None]
EndCallback = Callable[[End], None]


@dataclass(frozen=True, eq=False)
class Request:
    """A prompt (token ids), how to continue it, and whom to tell.

    top: number of most likely tokens that each `NewToken` names.
    """

    ids: tuple[int, ...]
    params: SamplingParams
    on_token: TokenCallback
    on_end: EndCallback
    top: int = 0
    is_cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, eq=False)
class Ticket:
    """The right to cancel a request, from any thread."""

    request: Request
    wake: Callable[[], None]

    def cancel(self) -> None:
        """End the request at its next token, with the reason "cancelled"; no effect later on."""
        self.request.is_cancelled.set()
        self.wake()


def new_token(streamed: StreamedToken, logits: Array, top: int) -> NewToken:
    """The record of a token that was drawn from `logits` (V,), or of text that was held back."""
    if streamed.token is None:
        return NewToken(None, streamed.text, 0.0, streamed.rank, streamed.entropy)
    return NewToken(
        streamed.token,
        streamed.text,
        _log_probability(streamed, logits),
        streamed.rank,
        streamed.entropy,
        most_likely(logits, top),
    )


def most_likely(logits: Array, top: int) -> tuple[tuple[int, float], ...]:
    """The `top` most likely tokens and their log-probabilities, most likely first."""
    top = min(top, len(logits))
    if top == 0:
        return ()
    best = np.argpartition(logits, len(logits) - top)[len(logits) - top :]
    best = best[np.lexsort((best, -logits[best]))]
    values = logits[best] - log_total(logits)
    return tuple(zip(best.tolist(), values.tolist(), strict=True))


def log_total(logits: Array) -> float:
    """log(sum(exp(logits))): a logit minus it is a log-probability."""
    highest = logits.max()
    return float(highest) + math.log(float(np.exp(logits - highest).sum()))


def _log_probability(streamed: StreamedToken, logits: Array) -> float:
    if streamed.probability > 0:
        return math.log(streamed.probability)
    return float(logits[streamed.token]) - log_total(logits)  # less than float32 can express

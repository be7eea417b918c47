"""One choice of a response: from the tokens of a reply to pieces of text with their tokens.

A stream sends the pieces; a response that is not streamed joins them. Both therefore say the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from simplellm.data.tokenizer import TextStream, Tokenizer
from simplellm.inference.engine.request import End, NewToken
from simplellm.server.token_info import TokenInfo

FINISH_REASONS = {"length": "length", "stop": "stop", "end_of_text": "stop"}


@dataclass(frozen=True)
class Piece:
    """A part of a choice. finish_reason: OpenAI's, of the last part."""

    text: str = ""
    tokens: tuple[TokenInfo, ...] = ()
    finish_reason: str | None = None

    def __bool__(self) -> bool:
        return bool(self.text or self.tokens or self.finish_reason)


def joined(pieces: Sequence[Piece]) -> Piece:
    """The whole choice of its pieces."""
    tokens = tuple(info for piece in pieces for info in piece.tokens)
    reason = pieces[-1].finish_reason if pieces else None
    return Piece("".join(piece.text for piece in pieces), tokens, reason)


class Choice:
    """Makes pieces of the tokens of one reply.

    has_tokens: whether pieces have tokens. with_end: whether a token that ends the reply is one of
    them. offset: characters of the text before the reply.
    """

    def __init__(
        self, tokenizer: Tokenizer, has_tokens: bool, with_end: bool = False, offset: int = 0
    ) -> None:
        self._has_tokens = has_tokens
        self._with_end = with_end
        self._raw = TextStream(tokenizer)  # the text with stop sequences
        self._n_raw = offset
        self._n_sent = offset
        self._held: deque[TokenInfo] = deque()  # their text is held back

    def push(self, new: NewToken) -> Piece:
        """The text that can be sent after a token, and the tokens that begin in it."""
        if self._has_tokens and new.token is not None:
            self._hold(new)
        self._n_sent += len(new.text)
        return Piece(new.text, self._sent_tokens())

    def finish(self, end: End) -> Piece:
        """The last piece. Tokens of a stop sequence are left out."""
        tokens = self._sent_tokens()
        if end.reason != "stop":
            tokens += tuple(self._held)
        if self._has_tokens and self._with_end and end.ending is not None:
            self._hold(end.ending)
            tokens += (self._held.pop(),)
        self._held.clear()
        return Piece("", tokens, FINISH_REASONS[end.reason])

    def _hold(self, new: NewToken) -> None:
        assert new.token is not None
        # rounded in another way where it is one of the most likely tokens
        log_probability = dict(new.top).get(new.token, new.log_probability)
        self._held.append(TokenInfo(new.token, self._n_raw, log_probability, new.top))
        self._n_raw += len(self._raw.push(new.token))

    def _sent_tokens(self) -> tuple[TokenInfo, ...]:
        tokens = []
        while self._held and self._held[0].offset < self._n_sent:
            tokens.append(self._held.popleft())
        return tuple(tokens)

"""A reply that the engine computes: its KV cache, the tokens to read next, and its stream."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from simplellm.inference.engine.request import End, NewToken, Request, new_token
from simplellm.inference.filters import Array
from simplellm.inference.reply import Reply, StreamedToken, token_statistics
from simplellm.inference.sampler import Sampler
from simplellm.model.cache import KVCache


class RunningReply:
    """The logits source of its own `Reply`, which draws the tokens and makes text of them.

    `cache` holds the first `cache.length` ids of `context`; the others are to be read.
    """

    def __init__(
        self, request: Request, sampler: Sampler, cache: KVCache, n_prefix: int, kv_bytes: int
    ) -> None:
        """`cache` holds the first `n_prefix` tokens of the prompt. kv_bytes: its final size."""
        self.request = request
        self.tokenizer = sampler.tokenizer
        self.end_ids = sampler.end_ids
        self.cache = cache
        self.context = sampler.truncate(request.ids)
        self.prompt = np.asarray(self.context)  # the beginning of the context; empty after a cut
        self.n_prefix = n_prefix
        self.kv_bytes = kv_bytes
        self.started_at = time.monotonic()
        self._sampler = sampler
        self._logits: Array | None = None
        self._ending: NewToken | None = None
        self._reply = Reply(self, list(request.ids), request.params)
        self._stream = iter(self._reply)

    @property
    def unread(self) -> list[int]:
        """Tokens to read before the next one can be drawn; at least one."""
        return self.context[self.cache.length :]

    @property
    def has_read_prompt(self) -> bool:
        return self.cache.length >= len(self.prompt) - 1

    @property
    def has_ended(self) -> bool:
        return self._reply.stop_reason != "interrupted"

    @property
    def n_new(self) -> int:
        return len(self._reply.new_ids)

    def next_logits(self, ids: Sequence[int]) -> Array:
        logits, self._logits = self._logits, None
        assert logits is not None, "the engine computes them before it draws a token"
        return logits

    def draw(self, logits: Array) -> list[NewToken]:
        """Draw the next token from `logits` (V,); also text held back, if the reply ends with it.

        A token that ends the reply is not among them, but in its `End`.
        """
        self._logits = logits
        found: list[NewToken] = []
        while (streamed := next(self._stream, None)) is not None:
            found.append(new_token(streamed, logits, self.request.top))
            if not self.has_ended:
                self._append(self._reply.new_ids[-1])
                break
        if self._reply.stop_reason == "end_of_text":
            token = self._reply.new_ids[-1]
            ending = StreamedToken(token, "", *token_statistics(logits, token))
            self._ending = new_token(ending, logits, self.request.top)
        return found

    def end(self, reason: str | None = None, error: Exception | None = None) -> End:
        """`reason`: why it ends; None where the reply itself has ended."""
        return End(
            reason or self._reply.stop_reason,
            error,
            len(self.request.ids),
            self.n_prefix,
            self.n_new,
            self._reply.seed,
            self._reply.text,
            self._ending,
        )

    def _append(self, token: int) -> None:
        """The next token to read; a full context is cut as in the sampler."""
        if self.cache.length < self._sampler.block_size:
            self.context.append(token)
            return
        self.context = self._sampler.truncate([*self.request.ids, *self._reply.new_ids])
        self.cache.length = 0
        self.prompt = self.prompt[:0]

"""The running replies: they start, advance by one token in each step, and end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from simplellm.inference.engine.limits import EngineLimits, Statistics
from simplellm.inference.engine.prefix_cache import (
    MIN_TOKENS,
    PrefixCache,
    common_prefix,
    copy_prefix,
)
from simplellm.inference.engine.request import CANCELLED, ERROR, End, Request
from simplellm.inference.engine.rows import Rows
from simplellm.inference.engine.running_reply import RunningReply
from simplellm.inference.filters import Array
from simplellm.inference.places import Part
from simplellm.inference.sampler import Sampler

NEW_SHARE = 0.2  # of the newest request in the mean duration


class Running:
    """The replies that are computed together. Used by one thread, except for `statistics`."""

    def __init__(self, sampler: Sampler, limits: EngineLimits) -> None:
        self.prefixes = PrefixCache(limits.prefix_cache_bytes)
        self.mean_seconds = 0.0  # of a request, from its start to its end
        self._sampler = sampler
        self._limits = limits
        self._rows = Rows(sampler)
        self._replies: list[RunningReply] = []
        self._counts = dict.fromkeys(
            ("requests", "prompt_tokens", "cached_tokens", "generated_tokens", "steps"), 0
        )

    def __len__(self) -> int:
        return len(self._replies)

    def statistics(self, n_waiting: int) -> Statistics:
        replies = list(self._replies)
        return Statistics(
            running=len(replies),
            waiting=n_waiting,
            kv_bytes=sum(reply.kv_bytes for reply in replies),
            prefix_cache_bytes=self.prefixes.n_bytes,
            **self._counts,
        )

    def has_room(self, request: Request) -> bool:
        """Whether there is a place and memory for one more reply; for a single one there is."""
        reserved = sum(reply.kv_bytes for reply in self._replies)
        fits = reserved + self._kv_bytes(request) <= self._limits.kv_bytes
        return len(self) < self._limits.max_running and (fits or not self._replies)

    def start(self, request: Request) -> None:
        """Add a request to the running replies. If that fails, it ends with the error."""
        try:
            reply = self._new_reply(request)
        except Exception as error:
            self.reject(request, ERROR, error)
            return
        self._counts["requests"] += 1
        self._counts["prompt_tokens"] += len(request.ids)
        self._counts["cached_tokens"] += reply.n_prefix
        self._replies.append(reply)

    def reject(self, request: Request, reason: str, error: Exception | None = None) -> None:
        """End a request that was not started."""
        _tell_end(request, End.of_request(request, reason, error))

    def end_all(self, reason: str, error: Exception | None = None) -> None:
        for reply in list(self._replies):
            self._end(reply, reason, error)

    def step(self) -> None:
        """Read one part of each reply, and draw a token where all is read."""
        for reply in list(self._replies):
            if reply.request.is_cancelled.is_set():
                self._end(reply, CANCELLED)
        replies = list(self._replies)
        if not replies:
            return
        self._counts["steps"] += 1
        self._share_prompts(replies)
        parts = self._rows.next_parts([(reply.cache, reply.unread) for reply in replies])
        pairs = [(reply, part) for reply, part in zip(replies, parts, strict=True) if part]
        for (reply, _), logits in zip(pairs, self._read([part for _, part in pairs]), strict=True):
            if isinstance(logits, Exception):
                self._end(reply, ERROR, logits)
            elif logits is not None:
                self._draw(reply, logits)

    def _share_prompts(self, replies: Sequence[RunningReply]) -> None:
        """Prompts that begin like one which was just read for another reply are not read again."""
        if not self._rows.can_share_prefixes:
            return
        sources = [reply for reply in replies if reply.has_read_prompt]
        for reply in replies:
            if reply.has_read_prompt or not sources:
                continue
            prompt = reply.prompt[:-1]  # its last token gives the logits
            source = max(sources, key=lambda one: common_prefix(prompt, one.prompt))
            n = min(common_prefix(prompt, source.prompt), source.cache.length)
            n_more = n - reply.cache.length
            if n_more >= MIN_TOKENS:
                copy_prefix(source.cache, reply.cache, n)
                reply.n_prefix += n_more
                self._counts["cached_tokens"] += n_more

    # ------------------------------------------------------------ one reply

    def _new_reply(self, request: Request) -> RunningReply:
        cache = self._rows.new_cache(self._n_positions(request))
        context = self._sampler.truncate(request.ids)
        n_prefix = self.prefixes.load(context, cache) if self._rows.can_share_prefixes else 0
        return RunningReply(request, self._sampler, cache, n_prefix, self._kv_bytes(request))

    def _n_positions(self, request: Request) -> int:
        """Positions that the reply may need. Its last token is not read."""
        n = len(request.ids) + request.params.max_new_tokens - 1
        return min(n, self._sampler.block_size)

    def _kv_bytes(self, request: Request) -> int:
        return self._rows.cache_bytes(self._n_positions(request))

    def _read(self, parts: Sequence[Part]) -> list[Array | Exception | None]:
        """Logits of each part, or the error. If all together fail, each is tried alone."""
        lengths = [part.cache.length for part in parts]
        try:
            return list(self._rows.read(parts))
        except Exception:
            found: list[Array | Exception | None] = []
            for part, length in zip(parts, lengths, strict=True):
                part.cache.length = length
                try:
                    logits = self._rows.read([part])[0]
                    found.append(None if logits is None else logits.copy())
                except Exception as error:
                    found.append(error)
            return found

    def _draw(self, reply: RunningReply, logits: Array) -> None:
        """An error of the filters, of the tokenizer or of a callback ends this reply only."""
        n_before = reply.n_new
        try:
            for token in reply.draw(logits):
                reply.request.on_token(token)
        except Exception as error:
            self._end(reply, ERROR, error)
        else:
            if reply.has_ended:
                self._end(reply)
        self._counts["generated_tokens"] += reply.n_new - n_before

    def _end(
        self, reply: RunningReply, reason: str | None = None, error: Exception | None = None
    ) -> None:
        self._replies.remove(reply)
        share = NEW_SHARE if self.mean_seconds else 1.0
        self.mean_seconds += share * (time.monotonic() - reply.started_at - self.mean_seconds)
        if error is None and self._rows.can_share_prefixes:
            with contextlib.suppress(Exception):  # such as no memory: a copy saves time only
                self.prefixes.store(reply.context, reply.cache)
        _tell_end(reply.request, reply.end(reason, error))


def _tell_end(request: Request, end: End) -> None:
    with contextlib.suppress(Exception):  # of the client, who is told no more
        request.on_end(end)

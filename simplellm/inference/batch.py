"""Several texts of one length, read by the model as one batch: replies beside each other, and the beams of a search.

A step of a batch costs little more than a step of one text, because the weights are read once for all of them.

Shapes: B texts, L layers, G key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from simplellm.config.sampling import SamplingParams
from simplellm.device import failures_reported
from simplellm.inference.sampler import Piece, Reply, Sampler
from simplellm.model.transformer import KVCache


class Texts:
    """The cache of a batch of texts, all as long as each other."""

    def __init__(self, sampler: Sampler, longest: int) -> None:
        """No text will have more than `longest` tokens; a context that is full begins anew as the sampler's does."""
        self._sampler = sampler
        self._model = sampler.model
        self._capacity = min(longest, sampler.block_size)
        self._cache: KVCache | None = None
        self._length = 0  # tokens of a text so far, those that have left the context included

    @torch.inference_mode()
    def next_logits(
        self, texts: Sequence[Sequence[int]], parents: Sequence[int] | None = None
    ) -> Tensor:
        """Logits (B, V) float32 on the CPU of the token after each text.

        Text i is text `parents[i]` of the call before (by default, text i) with one more token.
        """
        with failures_reported(self._model.token_embedding.weight.device):
            return self._next_logits(texts, parents)

    def _next_logits(self, texts: Sequence[Sequence[int]], parents: Sequence[int] | None) -> Tensor:
        cache = self._cache
        if (
            cache is not None
            and len(texts[0]) == self._length + 1
            and cache.length < self._sampler.block_size
        ):
            self._cache = cache = _chosen(cache, parents)
            new = [[text[-1]] for text in texts]
        else:
            same = all(text == texts[0] for text in texts)  # as at the beginning: read once
            new = [in_context(self._sampler, text) for text in (texts[:1] if same else texts)]
            self._cache = cache = KVCache(
                self._model.config, len(new), self._model.token_embedding.weight, self._capacity
            )
        hidden = self._model.hidden(torch.tensor(new, device=cache.keys.device), cache)
        logits = self._model.logits(hidden[:, -1]).float().cpu()
        if len(new) < len(texts):
            self._cache, logits = _chosen(cache, [0] * len(texts)), logits.expand(len(texts), -1)
        self._length = len(texts[0])
        return logits


def in_context(sampler: Sampler, text: Sequence[int]) -> list[int]:
    """What the sampler looks at of a text: all, or where it is too long its newest tokens."""
    return list(text) if len(text) <= sampler.block_size else sampler.newest(list(text))


def _chosen(cache: KVCache, rows: Sequence[int] | None) -> KVCache:
    """The cache of the texts in `rows` (L, B, G, capacity, D); the same one where nothing moves."""
    if rows is None or list(rows) == list(range(cache.keys.shape[1])):
        return cache
    index = torch.tensor(rows, device=cache.keys.device)
    cache.keys, cache.values = (
        cache.keys.index_select(1, index),
        cache.values.index_select(1, index),
    )
    return cache


class ReplyBatch:
    """Replies to one prompt, each with its own settings, decoded together; the same as one after another."""

    def __init__(
        self, sampler: Sampler, ids: Sequence[int], settings: Sequence[SamplingParams]
    ) -> None:
        longest = len(ids) + max(params.max_new_tokens for params in settings)
        self._texts = Texts(sampler, longest)
        self._voices = [_Voice(self, sampler) for _ in settings]
        self.replies = [
            Reply(voice, list(ids), params)
            for voice, params in zip(self._voices, settings, strict=True)
        ]
        self._running = list(range(len(settings)))
        self._read = list(self._running)  # which replies the cache holds

    def __iter__(self) -> Iterator[tuple[int, Piece]]:
        """Each piece with the number of its reply, as soon as it is known."""
        streams = [iter(reply) for reply in self.replies]
        while self._running:
            for number in list(self._running):
                piece = next(streams[number], None)
                if piece is None:
                    self._running.remove(number)
                else:
                    yield number, piece

    def think(self) -> None:
        """Give every reply that still runs the logits of its next token: each has drawn the one before."""
        n_drawn = max(len(self.replies[number].new_ids) for number in self._running)
        running = [
            number for number in self._running if len(self.replies[number].new_ids) == n_drawn
        ]  # not at their end
        texts = [
            [*self.replies[number].prompt_ids, *self.replies[number].new_ids] for number in running
        ]
        logits = self._texts.next_logits(texts, [self._read.index(number) for number in running])
        self._read = running
        for number, row in zip(running, logits.numpy(), strict=True):
            self._voices[number].logits = row


class _Voice(Sampler):
    """The sampler of one reply in a batch: what it is asked first, it is asked for all."""

    def __init__(self, batch: ReplyBatch, sampler: Sampler) -> None:
        self.model, self.tokenizer, self.block_size = (
            sampler.model,
            sampler.tokenizer,
            sampler.block_size,
        )
        self.logits: np.ndarray | None = None
        self._batch = batch

    def next_logits(self, ids: Sequence[int]) -> np.ndarray:
        if self.logits is None:
            self._batch.think()
        logits, self.logits = self.logits, None
        assert logits is not None
        return logits

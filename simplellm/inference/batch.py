"""Batched decoding: several token sequences of one length in one forward pass.

A step of a batch costs little more than a step of one sequence, because the weights are read once.
Used for replies to the same prompt and for beam search.

Shapes: B sequences, L layers, G key/value heads, D head size, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from simplellm.config.sampling import SamplingParams
from simplellm.device import failures_reported
from simplellm.inference.reply import LogitsSource, Reply, StreamedToken
from simplellm.inference.sampler import Sampler
from simplellm.model.cache import KVCache


class BatchDecoder:
    """Next-token logits and the KV cache for a batch of sequences of equal length."""

    def __init__(self, sampler: Sampler, max_length: int) -> None:
        """`max_length`: tokens of the longest sequence. A full context is cut as in the sampler."""
        self._sampler = sampler
        self._model = sampler.model
        self._capacity = min(max_length, sampler.block_size)
        self._cache: KVCache | None = None
        self._length = 0  # tokens per sequence so far, including those cut from the context

    @torch.inference_mode()
    def next_logits(
        self, sequences: Sequence[Sequence[int]], parents: Sequence[int] | None = None
    ) -> Tensor:
        """Logits (B, V) float32 on the CPU of the token after each sequence.

        Sequence i is sequence `parents[i]` of the previous call (default: i) with one more token.
        """
        with failures_reported(self._model.token_embedding.weight.device):
            return self._next_logits(sequences, parents)

    def _next_logits(
        self, sequences: Sequence[Sequence[int]], parents: Sequence[int] | None
    ) -> Tensor:
        cache = self._cache
        if (
            cache is not None
            and len(sequences[0]) == self._length + 1
            and cache.length < self._sampler.block_size
        ):
            self._cache = cache = _select(cache, parents)
            new = [[ids[-1]] for ids in sequences]
        else:
            are_equal = all(ids == sequences[0] for ids in sequences)  # a prompt: computed once
            new = [
                self._sampler.truncate(ids) for ids in (sequences[:1] if are_equal else sequences)
            ]
            self._cache = cache = KVCache(
                self._model.config, len(new), self._model.token_embedding.weight, self._capacity
            )
        hidden = self._model.hidden(torch.tensor(new, device=cache.keys.device), cache)
        logits = self._model.logits(hidden[:, -1]).float().cpu()
        if len(new) < len(sequences):
            self._cache = _select(cache, [0] * len(sequences))
            logits = logits.expand(len(sequences), -1)
        self._length = len(sequences[0])
        return logits


def _select(cache: KVCache, rows: Sequence[int] | None) -> KVCache:
    """`cache` with its sequences (axis 1 of (L, B, G, capacity, D)) replaced by those of `rows`."""
    if rows is None or list(rows) == list(range(cache.keys.shape[1])):
        return cache
    index = torch.tensor(rows, device=cache.keys.device)
    cache.keys = cache.keys.index_select(1, index)
    cache.values = cache.values.index_select(1, index)
    return cache


class ReplyBatch:
    """Replies to one prompt, each with its own settings, decoded together.

    The replies equal those that are generated one after another.
    """

    def __init__(
        self, sampler: Sampler, ids: Sequence[int], settings: Sequence[SamplingParams]
    ) -> None:
        max_length = len(ids) + max(params.max_new_tokens for params in settings)
        self._decoder = BatchDecoder(sampler, max_length)
        self._sources = [_ReplySource(self, sampler) for _ in settings]
        # A batch of int8 products is computed without rounding vectors.
        sources: Sequence[LogitsSource] = (
            [Sampler(sampler.model, sampler.tokenizer) for _ in settings]
            if sampler.rounds_vectors
            else self._sources
        )
        self.replies = [
            Reply(source, list(ids), params)
            for source, params in zip(sources, settings, strict=True)
        ]
        self._running = list(range(len(settings)))  # indices of replies that are not complete
        self._cached = list(self._running)  # indices of the replies in the KV cache

    def __iter__(self) -> Iterator[tuple[int, StreamedToken]]:
        """Each token as soon as it is known, with the index of its reply."""
        streams = [iter(reply) for reply in self.replies]
        while self._running:
            for index in list(self._running):
                token = next(streams[index], None)
                if token is None:
                    self._running.remove(index)
                else:
                    yield index, token

    def compute_logits(self) -> None:
        """Compute the next logits of every reply that has not ended."""
        n_new = max(len(self.replies[index].new_ids) for index in self._running)
        # A reply with fewer tokens has ended, but its stream was not asked again yet.
        running = [index for index in self._running if len(self.replies[index].new_ids) == n_new]
        sequences = [
            [*self.replies[index].prompt_ids, *self.replies[index].new_ids] for index in running
        ]
        parents = [self._cached.index(index) for index in running]
        logits = self._decoder.next_logits(sequences, parents)
        self._cached = running
        for index, row in zip(running, logits.numpy(), strict=True):
            self._sources[index].logits = row


class _ReplySource:
    """Logits of one reply of a batch; the first reply that needs its logits computes all."""

    def __init__(self, batch: ReplyBatch, sampler: Sampler) -> None:
        self.tokenizer = sampler.tokenizer
        self.end_ids = sampler.end_ids
        self.logits: np.ndarray | None = None
        self._batch = batch

    def next_logits(self, ids: Sequence[int]) -> np.ndarray:
        if self.logits is None:
            self._batch.compute_logits()
        logits, self.logits = self.logits, None
        assert logits is not None
        return logits

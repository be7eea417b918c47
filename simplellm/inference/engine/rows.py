"""The forward pass of several replies, each with a KV cache of its own.

Each reply is computed alone, with the operations of the sampler. Its logits do not depend on the
other replies: a prompt is read in the same parts whatever else runs.

Shapes: V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from simplellm.device import failures_reported
from simplellm.inference.filters import Array
from simplellm.inference.sampler import Sampler
from simplellm.model.cache import KVCache

PART = 256  # tokens of a prompt that one pass reads


class Part(NamedTuple):
    """Tokens to append to a cache. has_logits: whether the logits after them are wanted."""

    cache: KVCache
    tokens: Sequence[int]
    has_logits: bool


class Rows:
    """Computes parts of several replies with the model of a sampler."""

    def __init__(self, sampler: Sampler) -> None:
        self._model = sampler.model
        self._decoder = sampler.decoder
        self._device = sampler.model.token_embedding.weight.device
        # Where the decoder rounds vectors, a prefix that it has read gives another reply.
        self.can_share_prefixes = not sampler.rounds_vectors

    def new_cache(self, n_positions: int) -> KVCache:
        """A cache for a reply of at most so many tokens."""
        weight = self._model.token_embedding.weight
        return KVCache(self._model.config, 1, weight, n_positions)

    def cache_bytes(self, n_positions: int) -> int:
        """Bytes that such a cache has when it is full."""
        config, weight = self._model.config, self._model.token_embedding.weight
        per_layer = 2 * config.kv_heads * config.head_size * weight.element_size()
        return config.n_layer * per_layer * n_positions

    def next_part(self, cache: KVCache, unread: Sequence[int]) -> Part:
        """The tokens that follow in `cache`. The last token is read alone, as in the sampler."""
        if len(unread) == 1:
            return Part(cache, unread, has_logits=True)
        n = min(PART - cache.length % PART, len(unread) - 1)
        return Part(cache, unread[:n], has_logits=False)

    def read(self, parts: Sequence[Part]) -> list[Array | None]:
        """Logits (V,) float32 after each part that wants them; the next call may overwrite them."""
        return [self._read(part) for part in parts]

    @torch.inference_mode()
    def _read(self, part: Part) -> Array | None:
        if part.has_logits and self._decoder is not None:
            self._decoder.use(part.cache)
            return self._decoder.read(part.tokens[-1]).copy()
        with failures_reported(self._device):
            ids = torch.tensor([part.tokens], device=self._device)
            hidden = self._model.hidden(ids, part.cache)
            if not part.has_logits:
                return None
            return self._model.logits(hidden[0, -1]).float().cpu().numpy()

"""Which tokens a forward pass reads, and where in the KV caches of their texts they belong.

Shapes: R tokens, L layers, G key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from simplellm.inference.native_products import PLACE
from simplellm.inference.vectors import Array
from simplellm.model.cache import KVCache


class Part(NamedTuple):
    """Tokens that follow those in a cache of one row. has_logits: whether the logits after them
    are wanted."""

    cache: KVCache
    tokens: Sequence[int]
    has_logits: bool


class Places:
    """The positions (R,) of the tokens of several parts, with their caches."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """The caches have room for the tokens afterwards; their lengths stay."""
        table: list[tuple[int, int, int, int]] = []
        self.rows: list[tuple[Array, Array, int]] = []  # keys and values (L, G, capacity, D), end
        for cache, tokens, _ in parts:
            start, end = cache.length, cache.length + len(tokens)
            cache.reserve(end)
            assert cache.keys.shape[1] == 1, "one text in each cache"
            memory = cache.keys.data_ptr(), cache.values.data_ptr(), cache.capacity
            table += [(*memory, position) for position in range(start, end)]
            keys, values = cache.keys.numpy()[:, 0], cache.values.numpy()[:, 0]
            self.rows += [(keys, values, position + 1) for position in range(start, end)]
        self.table = np.array(table, PLACE)  # for C
        self.positions: Array = self.table["position"]

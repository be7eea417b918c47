"""Which tokens a forward pass reads, and where in the KV caches of their texts they belong.

Shapes: R tokens, G key/value heads, S positions, D head size.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
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
    """The positions (R,) of the tokens of several parts, with their caches.

    `for_c`: the address of an array (R,) of PLACE.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        """The caches have room for the tokens afterwards; their lengths stay."""
        table: list[tuple[int, int, int, int]] = []
        self._ends: list[tuple[KVCache, int]] = []
        for cache, tokens, _ in parts:
            start, end = cache.length, cache.length + len(tokens)
            cache.reserve(end)
            assert cache.keys.shape[1] == 1, "one text in each cache"
            memory = cache.keys.data_ptr(), cache.values.data_ptr(), cache.capacity
            table += [(*memory, position) for position in range(start, end)]
            self._ends += [(cache, position + 1) for position in range(start, end)]
        self._table = np.array(table, PLACE)
        self.positions: Array = self._table["position"]
        self.for_c = ctypes.c_void_p(self._table.ctypes.data)

    def of_layer(self, layer: int) -> Iterator[tuple[Array, Array]]:
        """Keys and values (G, S, D) of each token, up to its own."""
        for cache, end in self._ends:
            yield cache.keys[layer, 0, :, :end].numpy(), cache.values[layer, 0, :, :end].numpy()

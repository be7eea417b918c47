"""The prefix cache: keys and values of texts that were read, for prompts that begin like them.

Entries are copies with exact sizes. The least recently used ones are dropped where they would
exceed the memory limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from simplellm.model.cache import KVCache

MIN_TOKENS = 4  # of a prefix; shorter ones are read again


class _Entry(NamedTuple):
    ids: np.ndarray  # (S,)
    keys: Tensor  # (L, 1, G, S, D)
    values: Tensor  # (L, 1, G, S, D)

    @property
    def n_bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


class PrefixCache:
    """Entries from the least to the most recently used one."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: list[_Entry] = []

    @property
    def n_bytes(self) -> int:
        return sum(entry.n_bytes for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def store(self, ids: Sequence[int], cache: KVCache) -> None:
        """Keep what `cache` holds: the keys and values of the first `cache.length` of `ids`."""
        n = cache.length
        token_bytes = (cache.keys.nbytes + cache.values.nbytes) // cache.capacity
        if n < MIN_TOKENS or n * token_bytes > self.max_bytes:
            return
        new = np.asarray(ids[:n])
        longest, entry = self._longest(new)
        if entry is not None and longest == n:  # the entry goes on after it
            self._use(entry)
            return
        self._entries = [
            entry for entry in self._entries if common_prefix(entry.ids, new) < len(entry.ids)
        ]
        while self._entries and self.n_bytes + n * token_bytes > self.max_bytes:
            del self._entries[0]
        keys, values = (array[:, :, :, :n].clone() for array in (cache.keys, cache.values))
        self._entries.append(_Entry(new, keys, values))

    def load(self, ids: Sequence[int], cache: KVCache) -> int:
        """Fill the empty `cache` with the longest known prefix of `ids`, except their last token.

        Returns its length.
        """
        n, entry = self._longest(np.asarray(ids[:-1]))
        if entry is None or n < MIN_TOKENS:
            return 0
        self._use(entry)
        copy_prefix(entry, cache, n)
        return n

    def clear(self) -> None:
        self._entries.clear()

    def _longest(self, ids: np.ndarray) -> tuple[int, _Entry | None]:
        """The entry with the longest common prefix with `ids`, and its length."""
        found = ((common_prefix(entry.ids, ids), entry) for entry in self._entries)
        return max(found, key=lambda pair: pair[0], default=(0, None))

    def _use(self, entry: _Entry) -> None:
        self._entries = [other for other in self._entries if other is not entry]
        self._entries.append(entry)


def copy_prefix(source: _Entry | KVCache, cache: KVCache, n: int) -> None:
    """Replace what `cache` holds by the first n positions of `source`."""
    cache.reserve(n)
    cache.keys[:, :, :, :n] = source.keys[:, :, :, :n]
    cache.values[:, :, :, :n] = source.values[:, :, :, :n]
    cache.length = n


def common_prefix(one: np.ndarray, other: np.ndarray) -> int:
    """Length of the common prefix."""
    n = min(len(one), len(other))
    differs = one[:n] != other[:n]
    return int(differs.argmax()) if differs.any() else n

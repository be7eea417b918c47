"""Byte-pair encoding of a text: split into words, then merged from bytes to tokens.

tiktoken does it where it gives the ids of the merge list (merges.py). Else, and for words with
bytes that have no token, each word is merged here, as the library `tokenizers` does it.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import regex
import tiktoken

from simplellm.data.byte_alphabet import N_BYTES
from simplellm.data.utf8 import encodable

CACHED_WORDS = 10_000
CACHED_WORD_BYTES = 256  # longer words are not cached


@dataclass(frozen=True)
class WordMerger:
    """Merges of a word, exactly as `tokenizers` does them.

    ids: token -> id. pairs: two ids -> (order of the merge, id). ignores_merges: a word that is a
    token is not merged. unknown: the id for bytes without a token, which are left out where it is
    None; fuses_unknown: one id for several in a row.
    """

    ids: Mapping[bytes, int]
    pairs: Mapping[tuple[int, int], tuple[int, int]]
    ignores_merges: bool = False
    unknown: int | None = None
    fuses_unknown: bool = False

    def encode(self, word: bytes) -> list[int]:
        if self.ignores_merges and word in self.ids:
            return [self.ids[word]]
        symbols: list[int] = []
        was_unknown = False
        for byte in word:
            token = self.ids.get(bytes([byte]), self.unknown)
            is_unknown = bytes([byte]) not in self.ids
            if token is not None and not (is_unknown and was_unknown and self.fuses_unknown):
                symbols.append(token)
            was_unknown = is_unknown
        return self._merge(symbols)

    def _merge(self, symbols: list[int]) -> list[int]:
        """Merge the earliest pair, the leftmost of equals, until no pair is left."""
        n = len(symbols)
        following, preceding = [*range(1, n), -1], [*range(-1, n - 1)]
        queue: list[tuple[int, int, int, int]] = []

        def push(i: int, j: int) -> None:
            if i >= 0 and j >= 0 and (merge := self.pairs.get((symbols[i], symbols[j]))):
                heapq.heappush(queue, (merge[0], i, symbols[i], symbols[j]))

        for i in range(n - 1):
            push(i, i + 1)
        while queue:
            _, i, left, right = heapq.heappop(queue)
            j = following[i]
            if symbols[i] != left or j < 0 or symbols[j] != right:
                continue  # one of the two has been merged meanwhile
            symbols[i], symbols[j] = self.pairs[left, right][1], -1
            following[i] = following[j]
            if following[i] >= 0:
                preceding[following[i]] = i
            push(preceding[i], i)
            push(i, following[i])
        return [symbol for symbol in symbols if symbol >= 0]


@dataclass(frozen=True)
class BytePairEncoder:
    """Encodes texts without special tokens.

    ranks: the tokens that tiktoken merges, by order of merging; None where it would give other
    ids. ids: the id for each rank. words: returns what merges the words that tiktoken cannot.
    """

    pattern: str
    ranks: Mapping[bytes, int] | None
    ids: np.ndarray  # (R,) uint32
    words: Callable[[], WordMerger] | None = None
    _cache: dict[bytes, list[int]] = field(default_factory=dict, repr=False)

    def encode(self, text: str) -> list[int]:
        text = encodable(text)
        if not self._is_for_tiktoken(text):
            return self._encode_words(text)
        ranks = self._encoding.encode_ordinary(text)
        return ranks if self._is_identity else list(map(self._id_list.__getitem__, ranks))

    def encode_array(self, text: str) -> np.ndarray:
        """`encode` as a uint32 array; releases the interpreter lock where tiktoken encodes."""
        text = encodable(text)
        if not self._is_for_tiktoken(text):
            return np.array(self._encode_words(text), dtype=np.uint32)
        ranks = self._encoding.encode_to_numpy(text, disallowed_special=())
        return ranks if self._is_identity else self.ids[ranks]

    def split(self, text: str) -> list[str]:
        """The words of `text`; their concatenation is the text."""
        return regex.findall(self.pattern, encodable(text))

    def _encode_words(self, text: str) -> list[int]:
        ids: list[int] = []
        for word in regex.findall(self.pattern, text):
            content = word.encode()
            found = self._cache.get(content)
            if found is None:
                found = self._words.encode(content)
                if len(self._cache) < CACHED_WORDS and len(content) <= CACHED_WORD_BYTES:
                    self._cache[content] = found
            ids += found
        return ids

    def _is_for_tiktoken(self, text: str) -> bool:
        if self.ranks is None:
            return False
        if not self._unknown_bytes:
            return True
        content = text.encode()
        return len(content.translate(None, self._unknown_bytes)) == len(content)

    @functools.cached_property
    def _unknown_bytes(self) -> bytes:
        """The bytes that have no token."""
        known = self.ranks or {}
        return bytes(byte for byte in range(N_BYTES) if bytes([byte]) not in known)

    @functools.cached_property
    def _is_identity(self) -> bool:
        return bool((self.ids == np.arange(len(self.ids))).all())

    @functools.cached_property
    def _id_list(self) -> list[int]:
        return self.ids.tolist()

    @functools.cached_property
    def _words(self) -> WordMerger:
        assert self.words is not None
        return self.words()

    @functools.cached_property
    def _encoding(self) -> tiktoken.Encoding:
        assert self.ranks is not None
        return _tiktoken_encoding(tuple(self.ranks.items()), self.pattern)


@functools.lru_cache(maxsize=8)
def _tiktoken_encoding(ranks: tuple[tuple[bytes, int], ...], pattern: str) -> tiktoken.Encoding:
    """Cached: it takes 33 ms to build, and a training run builds the same one three times."""
    return tiktoken.Encoding(
        "simplellm", pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens={}
    )

"""Suffix array of words: finds the longest run of words that a text contains, by binary search.

A text of any size is divided into overlapping shards, each with its own suffix array. Positions
count words from the beginning of the whole text.

Shapes: n words in a shard, V distinct words.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from simplellm.evaluation.copied_text.words import BREAK, Words, words_of_chunks

SHARD_WORDS = 1 << 23  # about 32 MB of English text; sorting takes 0.4 GB of memory
OVERLAP_WORDS = 1 << 14  # of two shards; longer passages across their boundary are found in parts
SORTED_WORDS = 1 << 12  # sort depth: limits the time for texts with very long repetitions
FIRST_MATCH_WORDS = 64  # length of the first search for a match


@dataclass(frozen=True)
class Shard:
    """A part of the text and its suffix array."""

    first: int  # position of its first word
    vocabulary: np.ndarray  # (V,) uint64: ascending hashes of its distinct words
    words: np.ndarray  # (n,) big-endian uint32 (bytes sort as numbers): vocabulary index + 1, BREAK
    order: np.ndarray  # (n,) uint32: the suffix array, indices into `words`
    lines: np.ndarray  # int64: positions where lines or documents begin, after the previous shard
    marks: np.ndarray  # int64: positions of document marks, after the previous shard

    def longest_match(self, needle: np.ndarray) -> int:
        """Length of the longest prefix of `needle` in the shard; see `numbers`, without BREAK."""
        width = FIRST_MATCH_WORDS
        while True:
            prefix = needle[:width]
            index = self._bisect(prefix, bisect.bisect_left)
            neighbors = (
                self.words[start : start + len(prefix)]
                for start in self.order[max(index - 1, 0) : index + 1].tolist()
            )
            found = max((_common_length(prefix, words) for words in neighbors), default=0)
            if found < width or width >= len(needle):
                return found
            width *= 4

    def first_position(self, needle: np.ndarray) -> int | None:
        """Position of the first occurrence of `needle`; at most SORTED_WORDS are compared."""
        needle = needle[:SORTED_WORDS]
        low = self._bisect(needle, bisect.bisect_left)
        high = self._bisect(needle, bisect.bisect_right)
        return self.first + int(self.order[low:high].min()) if low < high else None

    def numbers(self, hashes: np.ndarray) -> np.ndarray:
        """Word numbers as in `words` for these hashes; BREAK for words that the shard lacks."""
        return _numbers(self.vocabulary, hashes)

    def _bisect(self, needle: np.ndarray, bisect_side: Callable[..., int]) -> int:
        width = len(needle)
        return bisect_side(
            self.order,
            needle.tobytes(),
            key=lambda start: self.words[start : start + width].tobytes(),
        )


def build_shards(
    chunks: Iterable[str], vocabulary: np.ndarray | None = None, min_characters: int = 0
) -> Iterator[Shard]:
    """Shards of a text in chunks, with DOCUMENT_MARK before each document; one in memory at a time.

    With `vocabulary` (ascending hashes), only runs of at least `min_characters` characters of these
    words are kept, and positions count kept words. This is enough to find runs of these words, and
    a small part of a large text.
    """
    hashes: list[np.ndarray] = []
    lines: list[np.ndarray] = []
    marks: list[np.ndarray] = []
    first = position = 0
    for words in words_of_chunks(chunks):
        kept = words.hashes
        if vocabulary is not None:
            kept = _keep_only(words, vocabulary, min_characters)
        hashes.append(kept)
        lines.append(words.lines + position)
        marks.append(np.flatnonzero(kept == BREAK) + position)
        position += len(kept)
        if position - first >= SHARD_WORDS:
            whole = np.concatenate(hashes)
            yield _shard(whole, first, lines, marks)
            hashes, lines, marks = [whole[-OVERLAP_WORDS:].copy()], [], []
            first = position - OVERLAP_WORDS
    if lines:
        yield _shard(np.concatenate(hashes), first, lines, marks)


def _keep_only(words: Words, vocabulary: np.ndarray, min_characters: int) -> np.ndarray:
    """The hashes of long runs of words in `vocabulary`, with one BREAK after each run.

    A run at either end may continue in the next chunk and is kept at any length.
    """
    n = len(words.hashes)
    is_known = _numbers(vocabulary, words.hashes) != BREAK
    edges = np.flatnonzero(np.diff(is_known, prepend=False, append=False))
    begins, ends = edges[::2], edges[1::2]
    n_characters = words.ends[ends - 1] - words.starts[begins]
    is_long = (n_characters >= min_characters) | (begins == 0) | (ends == n)
    steps = np.zeros(n + 1, np.int8)
    steps[begins[is_long]] += 1
    steps[ends[is_long]] -= 1
    is_kept = np.cumsum(steps, dtype=np.int8).astype(bool)[:n]
    hashes = np.where(is_kept, words.hashes, np.uint64(BREAK))
    return hashes[is_kept | np.diff(is_kept, prepend=True)]


def _shard(
    hashes: np.ndarray, first: int, lines: list[np.ndarray], marks: list[np.ndarray]
) -> Shard:
    vocabulary, numbers = _vocabulary(hashes)
    return Shard(
        first,
        vocabulary,
        numbers.astype(">u4"),
        _suffix_array(numbers, len(vocabulary)),
        np.concatenate(lines),
        np.concatenate(marks),
    )


def _vocabulary(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending distinct hashes without BREAK, and the uint32 number of each of `hashes`."""
    by_hash = np.argsort(hashes)
    ascending = hashes[by_hash]
    is_new = np.diff(ascending, prepend=np.uint64(BREAK)) != 0
    numbers = np.empty(len(hashes), np.uint32)
    numbers[by_hash] = np.cumsum(is_new, dtype=np.uint32)
    return ascending[is_new], numbers


def _numbers(vocabulary: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    indices = np.searchsorted(vocabulary, hashes)
    is_known = indices < len(vocabulary)
    is_known[is_known] = vocabulary[indices[is_known]] == hashes[is_known]
    return np.where(is_known, indices + 1, BREAK).astype(">u4")


def _suffix_array(numbers: np.ndarray, n_distinct: int) -> np.ndarray:
    """Indices of `numbers` (n,) sorted by the numbers from there on, to a depth of SORTED_WORDS.

    Prefix doubling of Larsson and Sadakane (1999): sort by as many numbers as fit into 64 bits,
    then repeatedly by twice as many, but only among suffixes that are still equal.
    """
    keys, depth = _packed(numbers, max(n_distinct.bit_length(), 1))
    order, ranks = np.arange(len(numbers), dtype=np.uint32), np.empty(len(numbers), np.uint32)
    unsorted = order.copy()  # indices into `order` of suffixes that equal another one so far
    while len(unsorted) and depth < 2 * SORTED_WORDS:
        ascending = np.argsort(keys)
        starts, keys = order[unsorted][ascending], keys[ascending]
        is_first = np.ones(len(keys), bool)  # first of a group of equal suffixes
        np.not_equal(keys[1:], keys[:-1], out=is_first[1:])
        order[unsorted] = starts
        groups = np.where(is_first, np.arange(len(keys), dtype=np.uint32), 0)
        ranks[starts] = unsorted[np.maximum.accumulate(groups)]
        unsorted = unsorted[~(is_first & np.append(is_first[1:], True))]
        starts = order[unsorted]
        keys = ranks[starts].astype(np.uint64) << np.uint64(32) | _ranks_at(ranks, starts, depth)
        depth *= 2
    return order


def _packed(numbers: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """For each index a uint64 of as many consecutive numbers as fit, and how many these are."""
    keys, depth = np.zeros(len(numbers), np.uint64), 64 // bits
    for i in range(depth):
        keys <<= np.uint64(bits)
        keys[: max(len(keys) - i, 0)] |= numbers[i:]
    return keys, depth


def _ranks_at(ranks: np.ndarray, starts: np.ndarray, distance: int) -> np.ndarray:
    """1 + rank of the suffix `distance` words after each of `starts`; 0 after the end."""
    indices = starts.astype(np.int64) + distance
    inside = ranks[np.minimum(indices, len(ranks) - 1)].astype(np.uint64) + np.uint64(1)
    return np.where(indices < len(ranks), inside, 0)


def _common_length(left: np.ndarray, right: np.ndarray) -> int:
    """Length of the common prefix."""
    n = min(len(left), len(right))
    differ = np.flatnonzero(left[:n] != right[:n])
    return int(differ[0]) if len(differ) else n

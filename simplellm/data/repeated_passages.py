"""Passages that occur more than once in one text, found with fingerprints of windows.

Letters and digits count, as in shared_passages.py. Of each `span` windows in a row, the one with
the smallest hash is a fingerprint (winnowing; Schleimer, Wilkerson and Aiken 2003), so that two
equal passages of WINDOW + span - 1 characters have a fingerprint in common, wherever they stand.
Time is linear in the text. Memory is bounded: the span grows with texts over MAX_FINGERPRINTS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from simplellm.data.shared_passages import (
    WINDOW,
    WINDOW_STRIDE,
    Passage,
    characters_of,
    window_hashes,
)

BATCH_CHARACTERS = 1 << 16  # the arrays of a batch fit into the cache of a core
MAX_FINGERPRINTS = 1 << 21  # 24 bytes each
THINNING = 10  # characters; a row of equal characters has one fingerprint in each THINNING


@dataclass(frozen=True)
class Fingerprints:
    """The fingerprints of a text in order: arrays of equal length N."""

    starts: np.ndarray  # (N,) position of the first character
    stops: np.ndarray  # (N,) position after the last one
    first: np.ndarray  # (N,) index of the first fingerprint with these letters
    counts: np.ndarray  # (N,) how often these letters are a fingerprint

    @classmethod
    def of(cls, starts: np.ndarray, stops: np.ndarray, hashes: np.ndarray) -> Fingerprints:
        """`hashes` (N,) are equal where the letters are."""
        _, index, inverse, counts = np.unique(
            hashes, return_index=True, return_inverse=True, return_counts=True
        )
        return cls(starts, stops, index[inverse], counts[inverse])

    def passages(self, chosen: np.ndarray) -> np.ndarray:
        """(P, 2), disjoint: where fingerprints in a row are all `chosen` (N,)."""
        edges = np.diff(chosen.astype(np.int8), prepend=0, append=0)
        begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
        return union(np.stack([self.starts[begins], self.stops[ends]], axis=1))

    def without(self, passages: np.ndarray) -> Fingerprints:
        """The fingerprints of the text without these passages (P, 2)."""
        kept = ~inside(passages, self.starts)
        starts, stops = self.starts[kept], self.stops[kept]
        return Fingerprints.of(
            starts - covered_before(passages, starts),
            stops - covered_before(passages, stops),
            self.first[kept],
        )


def fingerprints(parts: Iterable[str], n_characters: int) -> Fingerprints:
    """The fingerprints of a text in parts, of `n_characters` in all."""
    span = max(WINDOW_STRIDE, 2 * n_characters // MAX_FINGERPRINTS)
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint64))]
    codes, positions = np.zeros(0, np.uint32), np.zeros(0, np.int64)
    for text, start in _batches(parts):
        new_codes, new_positions = characters_of(text)
        codes = np.concatenate([codes, new_codes])
        positions = np.concatenate([positions, new_positions + start])
        n_windows = len(codes) - WINDOW + 1
        if n_windows < span:
            continue
        hashes = window_hashes(codes)
        chosen = _smallest(hashes, span)
        found.append((positions[chosen], positions[chosen + WINDOW - 1] + 1, hashes[chosen]))
        rest = n_windows - span + 1  # the first window of the next span
        codes, positions = codes[rest:], positions[rest:]
    starts, stops, hashes = (np.concatenate(column) for column in zip(*found, strict=True))
    is_new = np.ones(len(starts), bool)
    same_hash = hashes[1:] == hashes[:-1]
    is_new[1:] = ~same_hash | (starts[1:] // THINNING != starts[:-1] // THINNING)
    return Fingerprints.of(starts[is_new], stops[is_new], hashes[is_new])


def union(passages: np.ndarray) -> np.ndarray:
    """(P, 2) in order and disjoint, from passages in any order; those that touch are one."""
    if not len(passages):
        return passages
    passages = passages[np.argsort(passages[:, 0], kind="stable")]
    ends = np.maximum.accumulate(passages[:, 1])
    begins = np.flatnonzero(np.append(True, passages[1:, 0] > ends[:-1]))
    return np.stack([passages[begins, 0], ends[np.append(begins[1:], len(passages)) - 1]], axis=1)


def inside(passages: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Whether each position is in one of the passages (P, 2), in order and disjoint."""
    if not len(passages):
        return np.zeros(len(positions), bool)
    row = np.searchsorted(passages[:, 0], positions, "right") - 1
    return (row >= 0) & (positions < passages[row, 1])


def covered_before(passages: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """How many characters before each position are in one of the passages (P, 2), in order."""
    if not len(passages):
        return np.zeros(len(positions), np.int64)
    lengths = passages[:, 1] - passages[:, 0]
    heights = np.stack([np.cumsum(lengths) - lengths, np.cumsum(lengths)], axis=1)
    return np.interp(positions, passages.ravel(), heights.ravel()).astype(np.int64)


def as_array(passages: Iterable[Passage]) -> np.ndarray:
    """(P, 2)"""
    return np.array(list(passages), np.int64).reshape(-1, 2)


def _batches(parts: Iterable[str]) -> Iterator[tuple[str, int]]:
    """The text in batches of about BATCH_CHARACTERS, with the position of each."""
    texts: list[str] = []
    start = size = 0
    for part in parts:
        for begin in range(0, len(part), BATCH_CHARACTERS):
            texts.append(part[begin : begin + BATCH_CHARACTERS])
            size += len(texts[-1])
            if size >= BATCH_CHARACTERS:
                yield "".join(texts), start
                start += size
                size = 0
                texts = []
    yield "".join(texts), start


def _smallest(hashes: np.ndarray, span: int) -> np.ndarray:
    """Indices of the hashes that are the smallest of some `span` in a row."""
    smallest = np.pad(_rolling(np.minimum, hashes, span), span - 1)
    return np.flatnonzero(_rolling(np.maximum, smallest, span) == hashes)


def _rolling(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray], values: np.ndarray, span: int
) -> np.ndarray:
    """The minimum or maximum of each `span` values in a row."""
    done = 1
    while done < span:
        step = min(done, span - done)
        values = function(values[:-step], values[step:])
        done += step
    return values

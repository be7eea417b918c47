"""Passages that a text shares with a validation text, found with hashes of windows.

Only letters and digits count, so that a passage is found with other line breaks and quotation
marks too, and rules and rows of dots are no passages. Every WINDOW_STRIDE-th window of WINDOW
characters of the validation text is in an index; each window of the other text is looked up. A
shared passage of MIN_PASSAGE characters contains an indexed window. Time is linear in both texts.
Memory is 8 bytes per indexed window and a few chunks.
"""

from __future__ import annotations

import functools
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np

# In letters and digits. Proverbs, greetings, names and titles have fewer than 100; in prose, 80 are
# not equal by chance.
WINDOW = 80
WINDOW_STRIDE = 20
MIN_PASSAGE = WINDOW + WINDOW_STRIDE - 1
MIN_DISTINCT = 10  # of a window; rows of zeros and "hahaha" have fewer
BATCH_CHARACTERS = 1 << 19
TABLE_BITS = 24  # of the first look-up, a table of booleans
BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
INVERSE = pow(BASE, -1, 1 << 64)
TABLE_END = 0x10000  # code points from here on count as letters
Passage = tuple[int, int]  # first character, and the one after the last


class PassageIndex:
    """Windows of a text, given in parts; the ends of documents make no difference."""

    def __init__(self, parts: Iterable[str]) -> None:
        hashes = [np.zeros(0, np.uint64)]
        rest = np.zeros(0, np.uint32)  # from the next window on
        tail = rest  # the last WINDOW characters
        for text in parts:
            codes, _ = characters_of(text)
            rest = np.concatenate([rest, codes])
            tail = np.concatenate([tail, codes])[-WINDOW:]
            n_windows = max((len(rest) - WINDOW) // WINDOW_STRIDE + 1, 0)
            hashes.append(_indexed_hashes(rest, n_windows))
            rest = rest[n_windows * WINDOW_STRIDE :]
        hashes.append(_indexed_hashes(tail, int(len(tail) == WINDOW)))
        self._hashes = np.unique(np.concatenate(hashes))
        self._table = np.zeros(1 << TABLE_BITS, np.bool_)
        self._table[_table_rows(self._hashes)] = True

    def contains(self, hashes: np.ndarray) -> np.ndarray:
        """Indices of the `hashes` that are those of an indexed window."""
        likely = np.flatnonzero(self._table[_table_rows(hashes)])
        rows = np.searchsorted(self._hashes, hashes[likely])
        is_end = rows == len(self._hashes)
        rows[is_end] = 0
        return likely[~is_end & (self._hashes[rows] == hashes[likely])] if len(likely) else likely


class PassageSearch:
    """The passages of one text that are in an index. Its documents are added in parts."""

    def __init__(self, index: PassageIndex) -> None:
        self._index = index
        self._texts: list[str] = []
        self._batch_characters = 0
        self._n_characters = 0  # of all texts
        self._document_ends = array("Q")
        self._codes = np.zeros(0, np.uint32)  # the last ones, which may begin a window
        self._positions = np.zeros(0, np.int64)
        self._found: list[Passage] = []

    def add(self, text: str, ends_document: bool) -> None:
        self._texts.append(text)
        self._n_characters += len(text)
        self._batch_characters += len(text)
        if ends_document:
            self._document_ends.append(self._n_characters)
        if self._batch_characters >= BATCH_CHARACTERS:
            self._search()

    def passages(self) -> tuple[Passage, ...]:
        """What is shared, in order, as positions in the joined documents.

        Fewer than MIN_PASSAGE characters between a shared passage and the next one, or an end of
        the document, belong to it.
        """
        self._search()
        return widened(self._found, self._document_ends, self._n_characters)

    def _search(self) -> None:
        text = "".join(self._texts)
        codes, positions = characters_of(text)
        codes = np.concatenate([self._codes, codes])
        start = self._n_characters - len(text)
        positions = np.concatenate([self._positions, positions + start])
        self._texts, self._batch_characters = [], 0
        if len(codes) >= WINDOW:
            hits = self._index.contains(window_hashes(codes))
            ranges = zip(positions[hits], positions[hits + WINDOW - 1] + 1, strict=True)
            found = [(int(first), int(last)) for first, last in ranges]
            found[:0] = self._found[-1:]
            self._found[-1:] = _merged(found)
        self._codes, self._positions = codes[1 - WINDOW :], positions[1 - WINDOW :]


def widened(
    passages: list[Passage], document_ends: Sequence[int], n_characters: int
) -> tuple[Passage, ...]:
    """The passages, in order, with the short texts beside them.

    Fewer than MIN_PASSAGE characters before the next passage or an end of the document are short.
    """
    bounds = [0, *document_ends]
    wide = []
    for (_, before), (start, stop), (after, _) in _neighbours(passages, n_characters):
        first = bounds[bisect_right(bounds, start) - 1]
        last = bounds[min(bisect_right(bounds, stop - 1), len(bounds) - 1)]
        start = max(first, before) if start - max(first, before) < MIN_PASSAGE else start
        stop = min(last, after) if min(last, after) - stop < MIN_PASSAGE else stop
        wide.append((start, stop))
    return tuple(_merged(wide))


def without(
    parts: Iterable[str], passages: tuple[Passage, ...]
) -> Iterator[tuple[list[Passage], bool]]:
    """For each part of a text, what remains of it without the passages.

    That is a list of ranges of the part, and whether a passage begins where the part ends.
    """
    position = number = 0  # of the part in the text; of the next passage
    for text in parts:
        stop = position + len(text)
        kept = position
        ranges: list[Passage] = []
        while number < len(passages) and passages[number][0] < stop:
            first, last = passages[number]
            if first > kept:
                ranges.append((kept - position, first - position))
            kept = min(last, stop)
            if last > stop:
                break
            number += 1
        if kept < stop:
            ranges.append((kept - position, stop - position))
        yield ranges, number < len(passages) and passages[number][0] <= stop
        position = stop


def characters_of(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Code points of letters and digits, and their positions."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    positions = np.flatnonzero(_counts()[np.minimum(codes, TABLE_END)])
    return codes[positions], positions


@functools.cache
def _counts() -> np.ndarray:
    """Whether each code point is a letter or a digit."""
    return np.array([chr(code).isalnum() for code in range(TABLE_END)] + [True])


def window_hashes(codes: np.ndarray) -> np.ndarray:
    """Hashes of all windows, polynomials modulo 2**64 of the mixed characters."""
    mixed = (codes.astype(np.uint64) + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(32)
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(mixed * _powers(BASE, len(codes)), out=sums[1:])
    hashes = (sums[WINDOW:] - sums[:-WINDOW]) * _powers(INVERSE, len(codes) - WINDOW + 1)
    return np.asarray(hashes ^ (hashes >> np.uint64(31)))


def _powers(base: int, count: int) -> np.ndarray:
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.asarray(np.cumprod(factors))


def _indexed_hashes(codes: np.ndarray, n_windows: int) -> np.ndarray:
    """Hashes of the first windows at multiples of WINDOW_STRIDE, without monotonous ones."""
    if not n_windows:
        return np.zeros(0, np.uint64)
    last = (n_windows - 1) * WINDOW_STRIDE + WINDOW
    windows = np.lib.stride_tricks.sliding_window_view(codes[:last], WINDOW)[::WINDOW_STRIDE]
    in_order = np.sort(windows, axis=1)
    n_distinct = 1 + (in_order[:, 1:] != in_order[:, :-1]).sum(axis=1)
    return window_hashes(codes[:last])[::WINDOW_STRIDE][n_distinct >= MIN_DISTINCT]


def _table_rows(hashes: np.ndarray) -> np.ndarray:
    return hashes >> np.uint64(64 - TABLE_BITS)


def _merged(passages: Iterable[Passage]) -> Iterator[Passage]:
    """Passages in order; those that touch are one."""
    current: Passage | None = None
    for start, stop in passages:
        if current is not None and start <= current[1]:
            current = (current[0], max(current[1], stop))
            continue
        if current is not None:
            yield current
        current = (start, stop)
    if current is not None:
        yield current


def _neighbours(
    passages: list[Passage], n_characters: int
) -> Iterator[tuple[Passage, Passage, Passage]]:
    """Each passage with the one before and the one after it, or an end of the text."""
    row = [(0, 0), *passages, (n_characters, n_characters)]
    for (before, passage), (_, after) in pairwise(pairwise(row)):
        yield before, passage, after

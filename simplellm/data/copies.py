"""Copies inside one text, left out where they would stand in training and validation text.

The last part of a text is validation text. Where it repeats passages of the training text, as after
`cat x x > xx`, the validation loss would measure how well the model has memorized them. So the
later copies are left out of such a text. Texts without copies that reach the validation text are
not changed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile

import numpy as np

from simplellm.data.corpus import Corpus
from simplellm.data.prepared_corpus import train_characters
from simplellm.data.repeated_passages import (
    Fingerprints,
    as_array,
    covered_before,
    fingerprints,
    inside,
    union,
)
from simplellm.data.shared_passages import widened
from simplellm.data.source import Source
from simplellm.data.utf8 import utf8_length
from simplellm.errors import Notice

# Shares of the validation text that is also in the training text. Ordinary texts have up to 0.04
# (prose, dictionaries, Python's library; docs/training.md has the measurements).
LONG_SHARE = 0.05  # in long passages and whole documents: from here on they are left out
SHORT_SHARE = 0.1  # in all passages of files: from here on they are left out too
LONG_PASSAGE = 2000  # characters; licence headers, refrains and set phrases are shorter
COPIED_DOCUMENT = 0.9  # share of a document from which it is a copy of others
TEMPLATE_COUNT = 10  # what occurs so often in short passages is a template or a licence
NO_FIGURE = 0.8  # share of the validation text from which its figures are not held out
SHORTEST_REST = 2000  # characters; less is no text to train on
LONGEST_EXTENSION = 200  # characters; twice what a fingerprint begins later (measured)


def without_copies(corpus: Corpus, val_fraction: float, notice: Notice) -> Corpus:
    """The corpus without later copies, if some reach its validation text; else the same corpus.

    A notice says what is left out. `copied_share` says how much of the validation text stands in
    the training text nevertheless: in templates, or where nothing would remain.
    """
    text = _Text.of(corpus)
    copies = text.copies(train_characters(corpus.n_characters, val_fraction))
    if len(copies):
        copies = _extended(text.prints, copies, corpus)
        n_left_out = int((copies[:, 1] - copies[:, 0]).sum())
        if corpus.n_characters - n_left_out < SHORTEST_REST:
            copies = copies[:0]
        else:
            corpus = _without(corpus, copies)
            notice(
                f"left out: {n_left_out:,} characters of passages that occur more than once, "
                "some of them in training and validation text"
            )
    return replace(corpus, copied_share=text.copied_share(copies, val_fraction))


def not_held_out(share: float) -> str:
    """Why figures of a validation text with this share of copies say nothing; empty if they do."""
    if share < NO_FIGURE:
        return ""
    return (
        f"no held-out figures: {share:.0%} of the validation text is also in the training text; "
        "use --val-data FILE, or a text that repeats itself less"
    )


@dataclass(frozen=True)
class _Text:
    """The fingerprints and the documents of a corpus. Passages are arrays (P, 2) of positions."""

    prints: Fingerprints
    ends: np.ndarray  # (D,) end of each document
    is_record: np.ndarray  # (D,) whether it is a JSON line; others are whole files

    @classmethod
    def of(cls, corpus: Corpus) -> _Text:
        ends: list[int] = []
        is_record: list[bool] = []

        def parts() -> Iterator[str]:
            position = 0
            for chunk in corpus.chunks():
                position += len(chunk.text)
                if chunk.ends_document:
                    ends.append(position)
                    is_record.append(corpus.sources[chunk.source].is_json_lines)
                yield chunk.text

        prints = fingerprints(parts(), corpus.n_characters)
        if not ends or ends[-1] < corpus.n_characters:  # a file has become shorter meanwhile
            ends.append(corpus.n_characters)
            is_record.append(False)
        return cls(prints, np.array(ends, np.int64), np.array(is_record, bool))

    @cached_property
    def _is_copy(self) -> np.ndarray:
        return self.prints.first < np.arange(len(self.prints.first))

    @cached_property
    def _in_records(self) -> np.ndarray:
        """Which fingerprints begin in a JSON line."""
        return self.is_record[np.searchsorted(self.ends, self.prints.starts, "right")]

    @cached_property
    def _is_template(self) -> np.ndarray:
        return self.prints.counts >= TEMPLATE_COUNT

    def copies(self, cut: int) -> np.ndarray:
        """Later copies in a text whose validation text begins at `cut`.

        Empty where none of them is in the validation text and the first one in the training text.
        """
        leaks = self._leaks(cut)
        if not leaks.any():
            return as_array([])
        copies = self._long_copies()
        if self._share(copies, leaks, cut) < LONG_SHARE:
            copies = copies[:0]
        short = self._passages(self._is_copy & ~self._is_template & ~self._in_records)
        if self._share(short, leaks & ~inside(copies, self.prints.starts), cut) >= SHORT_SHARE:
            copies = union(np.concatenate([copies, short]))
        return copies

    def copied_share(self, left_out: np.ndarray, val_fraction: float) -> float:
        """Share of the validation text that is also in the training text, without `left_out`."""
        bounds = np.concatenate([[0], self.ends])
        ends = (bounds - covered_before(left_out, bounds))[1:]
        rest = _Text(self.prints.without(left_out), ends, self.is_record)
        cut = train_characters(int(ends[-1]), val_fraction)
        everything = np.array([[0, ends[-1]]])
        return rest._share(everything, rest._leaks(cut), cut)

    def _leaks(self, cut: int) -> np.ndarray:
        """(N,): which fingerprints of the validation text are in the training text too."""
        starts = self.prints.starts
        return (starts >= cut) & (starts[self.prints.first] < cut)

    def _long_copies(self) -> np.ndarray:
        """Long passages that are copies, and documents that consist of them."""
        passages = self._passages(self._is_copy & ~(self._is_template & self._in_records))
        is_long = passages[:, 1] - passages[:, 0] >= LONG_PASSAGE
        in_documents = self._passages(self._is_copy & ~self._is_template)
        bounds = np.concatenate([[0], self.ends])
        lengths = np.diff(bounds)
        covered = np.diff(covered_before(in_documents, bounds))
        is_copy = (lengths > 0) & (covered >= COPIED_DOCUMENT * lengths)
        documents = np.stack([bounds[:-1][is_copy], bounds[1:][is_copy]], axis=1)
        return union(np.concatenate([passages[is_long], documents]))

    def _passages(self, chosen: np.ndarray) -> np.ndarray:
        """The chosen fingerprints (N,) in a row, with short texts beside them."""
        found = [(int(start), int(stop)) for start, stop in self.prints.passages(chosen)]
        return as_array(widened(found, self.ends.tolist(), int(self.ends[-1])))

    def _share(self, passages: np.ndarray, leaks: np.ndarray, cut: int) -> float:
        """Share of the text from `cut` on that is in these passages and has leaked."""
        end = int(self.ends[-1])
        leaked = self._passages(leaks & inside(passages, self.prints.starts))
        before, total = covered_before(leaked, np.array([cut, end]))
        return float(total - before) / max(end - cut, 1)


def _extended(prints: Fingerprints, copies: np.ndarray, corpus: Corpus) -> np.ndarray:
    """The copies with the equal characters beside them; a fingerprint may begin a little later."""
    copies = copies.copy()
    for column, edges, side in ((0, prints.starts, -1), (1, prints.stops, 1)):
        prints_at = np.minimum(np.searchsorted(edges, copies[:, column]), len(edges) - 1)
        is_edge = edges[prints_at] == copies[:, column]  # others end with a document
        rows = np.flatnonzero(is_edge & (prints.first[prints_at] < prints_at))
        pairs = np.stack([copies[rows, column], edges[prints.first[prints_at[rows]]]], axis=1)
        texts = _texts_beside(corpus, pairs.ravel().tolist(), side)
        for row, (copy, original) in zip(rows, pairs.tolist(), strict=True):
            copies[row, column] += side * _n_equal(texts[copy], texts[original], side)
    return union(copies)


def _n_equal(first: str, second: str, side: int) -> int:
    """How many characters are equal, from the end of both texts (side -1) or from their start."""
    same = takewhile(
        lambda pair: pair[0] == pair[1], zip(first[::side], second[::side], strict=False)
    )
    return sum(1 for _ in same)


def _texts_beside(corpus: Corpus, positions: list[int], side: int) -> dict[int, str]:
    """For each position, the LONGEST_EXTENSION characters before it (side -1) or after it."""
    length = LONGEST_EXTENSION
    begins = sorted({position - length if side < 0 else position for position in positions})
    texts = dict.fromkeys(begins, "")
    position = 0
    for chunk in corpus.chunks():
        stop = position + len(chunk.text)
        for begin in begins[bisect_left(begins, position - length) : bisect_left(begins, stop)]:
            texts[begin] += chunk.text[max(begin - position, 0) : begin + length - position]
        position = stop
    return {begin + length if side < 0 else begin: text for begin, text in texts.items()}


def _without(corpus: Corpus, copies: np.ndarray) -> Corpus:
    """The corpus without these passages. A source of which nothing remains stays, for resume."""
    bounds = np.cumsum([0, *corpus.characters])
    sources: list[Source] = []
    characters: list[int] = []
    n_bytes = 0
    for source, first, last in zip(corpus.sources, bounds[:-1], bounds[1:], strict=True):
        own = np.clip(copies, first, last) - first
        own = own[own[:, 0] < own[:, 1]]
        sources.append(replace(source, left_out=tuple((a, b) for a, b in own.tolist())))
        characters.append(0)
        for chunk in sources[-1].chunks():
            characters[-1] += len(chunk.text)
            n_bytes += utf8_length(chunk.text)
    return replace(corpus, sources=tuple(sources), characters=tuple(characters), n_bytes=n_bytes)

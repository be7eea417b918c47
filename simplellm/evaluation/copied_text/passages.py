"""Copied passages: parts of a reply that occur word for word in the training text.

A passage is a run of consecutive words of one training document with at least PASSAGE_CHARACTERS
visible characters. See words.py for what a word is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from simplellm.data.utf8 import encodable
from simplellm.evaluation.copied_text.training_text import Location, TrainingText
from simplellm.evaluation.copied_text.words import BREAK, Words, words_of

PASSAGE_CHARACTERS = 20  # visible ones; a shorter passage may be a common phrase (guess)
WIDE_FROM = 0x2E80  # CJK characters and emoji count twice: they say about as much (guess)
MAX_PASSAGES = 5  # reported for one reply
PROMPT_CHARACTERS = 2000  # of the prompt before a reply that are searched


@dataclass(frozen=True)
class Passage:
    """A part of a reply that occurs in the training text."""

    text: str  # as in the reply
    began_before: bool  # it begins in the prompt; `text` is only its part in the reply
    location: Location | None  # its first occurrence; None if the files are unknown


@dataclass(frozen=True)
class Copied:
    """How much of a reply occurs word for word in the training text."""

    share: float  # fraction of its visible characters
    passages: tuple[Passage, ...]  # the longest, longest first, without overlaps


class _Reading(NamedTuple):
    """A prompt and its reply as words."""

    text: str
    reply_start: int
    words: Words
    sizes: np.ndarray  # (characters + 1,): visible characters before each, wide ones counted twice
    min_size: int

    def passages(self, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Characters where passages begin and end; the one from word i has the words i to ends[i].

        ends[i] = 0: there is none.
        """
        begins = self.words.starts
        stops = self.words.ends[np.maximum(ends, 1) - 1] if len(ends) else ends
        is_passage = (ends > 0) & (self.sizes[stops] - self.sizes[begins] >= self.min_size)
        return begins[is_passage], stops[is_passage]


def find_passages(
    reply: str,
    texts: Sequence[TrainingText],
    prompt: str = "",
    min_characters: int = PASSAGE_CHARACTERS,
) -> Copied:
    """The passages of `reply` in `texts`.

    A passage that begins in the prompt must reach `min_characters` as a whole; its part in the
    reply counts as copied.
    """
    prompt = encodable(prompt)[-PROMPT_CHARACTERS:]
    text = prompt + encodable(reply)
    words = words_of(text)
    ends, widths = _furthest_ends(words.hashes, texts), _widths(text, words)
    sizes = np.append(0, np.cumsum(widths))
    reading = _Reading(text, len(prompt), words, sizes, min_characters)
    in_reply = np.s_[len(prompt) :]
    is_copied = _is_inside(len(text), *reading.passages(ends))[in_reply]
    is_visible = widths[in_reply] > 0
    share = float((is_copied & is_visible).sum() / max(int(is_visible.sum()), 1))
    found = (_passage(reading, first, end, texts) for first, end in _longest(reading, ends))
    return Copied(share, tuple(found))


def _furthest_ends(hashes: np.ndarray, texts: Sequence[TrainingText]) -> np.ndarray:
    """For each word, the end of the longest run from it that occurs in a text; 0 if none does."""
    ends = np.zeros(len(hashes), np.int64)
    for shard in (shard for text in texts for shard in text.shards):
        numbers = shard.numbers(hashes)
        unknown = np.append(np.flatnonzero(numbers == BREAK), len(numbers))
        for i in np.flatnonzero(numbers).tolist():
            needle = numbers[i : unknown[np.searchsorted(unknown, i)]]
            if i + len(needle) > ends[i]:
                ends[i] = max(ends[i], i + shard.longest_match(needle))
    return ends


def _longest(reading: _Reading, ends: np.ndarray) -> Iterator[tuple[int, int]]:
    """First word and end of the longest passages, without what earlier ones cover.

    The length is that of the part in the reply.
    """
    ends = ends.copy()
    for _ in range(MAX_PASSAGES):
        begins, stops = reading.passages(ends)
        lengths = reading.sizes[stops] - reading.sizes[np.maximum(begins, reading.reply_start)]
        if not (lengths > 0).any():
            return
        best = int(np.argmax(lengths))
        first = int(np.searchsorted(reading.words.starts, begins[best]))
        end = int(ends[first])
        yield first, end
        ends[first:end] = 0
        ends[:first] = np.minimum(ends[:first], first)


def _passage(reading: _Reading, first: int, end: int, texts: Sequence[TrainingText]) -> Passage:
    words = reading.words
    begin = max(int(words.starts[first]), reading.reply_start)
    skipped = int(np.searchsorted(words.ends[first:end], begin, "right"))
    locations = (text.locate(words.hashes[first:end], skipped) for text in texts)
    location = next((location for location in locations if location is not None), None)
    passage = reading.text[begin : words.ends[end - 1]].strip()
    return Passage(passage, bool(words.starts[first] < reading.reply_start), location)


def _widths(text: str, words: Words) -> np.ndarray:
    """Width of each character: 0 for white space, 2 for wide characters, else 1."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    return _is_inside(len(text), words.starts, words.ends) * (1 + (codes >= WIDE_FROM))


def _is_inside(length: int, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """For each of `length` characters, whether it is inside one of these ranges."""
    opened = np.bincount(begins, minlength=length + 1)
    closed = np.bincount(ends, minlength=length + 1)
    return np.cumsum(opened - closed)[:length] > 0

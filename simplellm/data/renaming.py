"""Other names for what a passage speaks of, so that a model learns to take names from the text and not from memory.

A text is full of words that are frequent in one place and rare elsewhere: persons, places, variables, topics. On a small
text a model learns all of them by heart, and has nothing to say about those of a text it has not seen. Here each
passage gets some of them exchanged, all places of a word alike, for others of their kind or for made-up ones: who
wants to know what comes next then has to look where it came before.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

SHORTEST_NAME = 3  # bytes of its letters: three of Latin, one of Hangul
RARER_ELSEWHERE = 8  # a name is this many times as frequent in its passage as in the whole text
MADE_UP_PER_WORD, MOST_MADE_UP = 3, 2000  # of each kind

Kind = tuple[str, str]


class Renamer:
    """`renamer(words, times, share, generator)`: other names for the words of passages."""

    def __init__(self, words: list[str], counts: list[int], passage: int, seed: int) -> None:
        """`words`: the distinct words of the text, with how often each occurs; `passage`: its length in words.

        `made_up` are the new words, numbered on from those of the text.
        """
        self._usual = np.array(counts) * (passage / sum(counts))  # times in a passage
        by_kind: dict[Kind, list[int]] = defaultdict(list)
        for number, word in enumerate(words):
            if (kind := kind_of(word)) is not None:
                by_kind[kind].append(number)
        generator, known = np.random.default_rng(seed), set(words)
        self.made_up: list[str] = []
        self._kinds = np.full(len(words), -1)
        pools: list[list[int]] = []
        for kind, numbers in by_kind.items():
            self._kinds[numbers] = len(pools)
            made_up = _made_up([words[number] for number in numbers], kind, known, generator)
            first = len(words) + len(self.made_up)
            pools.append([*numbers, *range(first, first + len(made_up))])
            self.made_up += made_up
        self._sizes = np.array([len(pool) for pool in pools], dtype=np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._pool = np.array([number for pool in pools for number in pool], dtype=np.int64)

    def __call__(
        self, words: np.ndarray, times: np.ndarray, share: float, generator: np.random.Generator
    ) -> np.ndarray:
        """The number of each word of a passage (N) and how often it occurs there, in; a `share` of the names exchanged, out."""
        is_name = (
            (self._kinds[words] >= 0)
            & (times >= 2)
            & (times >= RARER_ELSEWHERE * self._usual[words])
        )
        chosen = np.flatnonzero(is_name & (generator.random(len(words)) < share))
        kinds = self._kinds[words[chosen]]
        drawn = (generator.random(len(chosen)) * self._sizes[kinds]).astype(np.int64)
        renamed = words.copy()
        renamed[chosen] = self._pool[self._starts[kinds] + drawn]
        return renamed


def kind_of(word: str) -> Kind | None:
    """What stands before the letters of a word, and how they are written; None for what is no word."""
    letters = word if word[:1].isalpha() else word[1:]
    if not letters.isalpha() or len(letters.encode()) < SHORTEST_NAME:
        return None
    case = (
        "upper"
        if letters.isupper()
        else "title"
        if letters[0].isupper()
        else "lower"
        if letters.islower()
        else "other"
    )
    return word[: len(word) - len(letters)], case


def _made_up(
    words: list[str], kind: Kind, known: set[str], generator: np.random.Generator
) -> list[str]:
    """New words of one kind: the beginning of one word and the end of another."""
    made_up = set()
    for first, second in generator.integers(
        len(words), size=(min(MADE_UP_PER_WORD * len(words), MOST_MADE_UP), 2)
    ):
        beginning, end = words[first], words[second]
        word = (
            beginning[: generator.integers(1, len(beginning) + 1)]
            + end[generator.integers(len(end)) :]
        )
        if kind_of(word) == kind and word not in known:
            made_up.add(word)
    return sorted(made_up)

"""Name replacement: augmentation that exchanges names, so that a model copies them from context.

Many words are frequent in one passage and rare elsewhere: persons, places, variables, topics. A
model that is trained on a small text memorizes them and cannot handle the names of other texts. In
each passage some names are replaced, all occurrences alike, by names of the same kind or by made-up
ones. The next token then has to be found in the context.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

MIN_NAME_BYTES = 3  # UTF-8 bytes of its letters: three Latin letters, one Hangul syllable
MIN_FREQUENCY_RATIO = 8  # frequency of a name in its passage, relative to the whole text
MADE_UP_PER_WORD = 3
MAX_MADE_UP = 2000  # per kind

Kind = tuple[str, str]  # prefix of the word, letter case


class Renamer:
    """`renamer(words, counts, share, generator)` replaces names among the words of passages."""

    def __init__(self, words: list[str], counts: list[int], passage: int, seed: int) -> None:
        """`words`: the distinct words of the text; `counts`: their frequencies; `passage`: words
        per passage. Made-up words get the numbers after those of `words`.
        """
        self._expected = np.array(counts) * (passage / sum(counts))  # occurrences per passage
        by_kind: dict[Kind, list[int]] = defaultdict(list)
        for number, word in enumerate(words):
            if (kind := kind_of(word)) is not None:
                by_kind[kind].append(number)
        generator = np.random.default_rng(seed)
        known = set(words)
        self.made_up: list[str] = []
        self._kinds = np.full(len(words), -1)
        pools: list[list[int]] = []
        for kind, numbers in by_kind.items():
            self._kinds[numbers] = len(pools)
            made_up = _make_up([words[number] for number in numbers], kind, known, generator)
            first = len(words) + len(self.made_up)
            pools.append([*numbers, *range(first, first + len(made_up))])
            self.made_up += made_up
        self._sizes = np.array([len(pool) for pool in pools], dtype=np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._pool = np.array([number for pool in pools for number in pool], dtype=np.int64)

    def __call__(
        self, words: np.ndarray, counts: np.ndarray, share: float, generator: np.random.Generator
    ) -> np.ndarray:
        """Word numbers (N,) with a fraction `share` of the names replaced.

        `words` (N,) are the distinct words of each passage, `counts` (N,) their frequencies there.
        """
        is_name = (
            (self._kinds[words] >= 0)
            & (counts >= 2)
            & (counts >= MIN_FREQUENCY_RATIO * self._expected[words])
        )
        chosen = np.flatnonzero(is_name & (generator.random(len(words)) < share))
        kinds = self._kinds[words[chosen]]
        drawn = (generator.random(len(chosen)) * self._sizes[kinds]).astype(np.int64)
        renamed = words.copy()
        renamed[chosen] = self._pool[self._starts[kinds] + drawn]
        return renamed


def kind_of(word: str) -> Kind | None:
    """The characters before the letters of a word, and the case of the letters; None for others."""
    letters = word if word[:1].isalpha() else word[1:]
    if not letters.isalpha() or len(letters.encode()) < MIN_NAME_BYTES:
        return None
    if letters.isupper():
        case = "upper"
    elif letters[0].isupper():
        case = "title"
    else:
        case = "lower" if letters.islower() else "other"
    return word[: len(word) - len(letters)], case


def _make_up(
    words: list[str], kind: Kind, known: set[str], generator: np.random.Generator
) -> list[str]:
    """New words of one kind: the beginning of one word with the end of another."""
    made_up = set()
    n = min(MADE_UP_PER_WORD * len(words), MAX_MADE_UP)
    for first, second in generator.integers(len(words), size=(n, 2)):
        beginning, end = words[first], words[second]
        word = (
            beginning[: generator.integers(1, len(beginning) + 1)]
            + end[generator.integers(len(end)) :]
        )
        if kind_of(word) == kind and word not in known:
            made_up.add(word)
    return sorted(made_up)
